"""The rankers for one request that a model can ship as, LiteRT and ONNX, float32 and int8, and the choice between them.

All rank the same events of the shoppers set aside for choosing, and are timed in turn on one thread of the CPU. A float32 ranker agrees when it gives the
golden scores of the SavedModel; an int8 one when it gives up little enough of its NDCG@10. The fastest that agrees ships, an int8 one only where that is
worth it. A form that cannot be made or run here is left out.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import GOLDEN_TOLERANCE, RANK_OUTPUT, RANKED_CANDIDATES, SIGNATURE
from evershelf.errors import in_one_line
from evershelf.golden import read_golden
from evershelf.progress import Say
from evershelf.ranker import ON_CPU, Ranker, open_ranker
from evershelf.settings import RankerForm
from training.blessing import FEWEST
from training.errors import ExportFailed
from training.examples import Examples
from training.exported import Exported
from training.ranking import ranks_of

MOST_LOST = 0.01  # share of the SavedModel's NDCG@10 that a ranker may give up
INT8_FASTER = 1.3  # an int8 ranker ships where it is at least so many times faster than the float32 one
MEASURED = 1000  # at most so many events
ROUNDS, REPEATS = 7, 12  # of the golden requests
OPSET = 18
SUFFIX = {"LiteRT": "tflite", "ONNX": "onnx"}

Inputs = dict[str, npt.NDArray[Any]]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One ranker. ndcg_lost: share of the SavedModel's NDCG@10 that it gives up, None when that cannot be measured."""

    form: str
    precision: str
    milliseconds: float
    megabytes: float
    largest_difference: float
    ndcg_lost: float | None

    @property
    def agrees(self) -> bool:
        if self.precision == "float32":
            return self.largest_difference <= GOLDEN_TOLERANCE
        return self.ndcg_lost is not None and self.ndcg_lost <= MOST_LOST


def ship(model: Any, folder: Path, examples: Examples, forms: Sequence[RankerForm], say: Say) -> list[dict[str, Any]]:
    """Give an exported model its ranker for one request; return what was found of each form, fastest first.

    Raises:
        ExportFailed: no float32 one gives the SavedModel's scores.
    """
    exported = Exported(folder)
    golden, wanted = read_golden((folder / "golden.json").read_bytes()).arrays()
    events = questions(exported, examples)
    count = len(events["candidates"]) if events else 0
    best = ndcg(exported.scores(events)) if events and count >= FEWEST else 0.0
    unmeasured = f"{count} events, {FEWEST} are needed" if count < FEWEST else "the SavedModel's is 0"
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        frozen, files, rankers, differences = freeze(model, exported.item_vectors), dict[str, Path](), dict[str, Ranker](), dict[str, float]()
        for form in forms:
            try:
                file = convert(frozen, form, Path(aside))
                ranker = open_ranker(file, ON_CPU)
                differences[form] = float(np.abs(_one_by_one(ranker, golden) - wanted).max())
            except Exception as error:  # the converters' errors share no class; another form can ship
                say(f"ranker {form} is left out, it cannot be made or run here: {type(error).__name__}: {in_one_line(error)[:300]}")
            else:
                files[form], rankers[form] = file, ranker
        milliseconds, found = race(rankers, golden), []
        for name, ranker in rankers.items():
            lost = max(0.0, 1 - ndcg(_one_by_one(ranker, events)) / best) if events and best else None
            engine, precision = name.split()
            found.append(
                Measured(
                    form=engine,
                    precision=precision,
                    milliseconds=round(milliseconds[name], 4),
                    megabytes=round(files[name].stat().st_size / 1e6, 3),
                    largest_difference=differences[name],
                    ndcg_lost=None if lost is None else round(lost, 5),
                )
            )
        shipped = choose(found)
        file = files[f"{shipped.form} {shipped.precision}"]
        shutil.copyfile(file, folder / f"ranker{file.suffix}")
    if shipped.precision == "int8":
        _tolerate(folder, 2 * shipped.largest_difference)
    rows = [asdict(each) | {"agrees": each.agrees, "ships": each is shipped} for each in sorted(found, key=lambda each: each.milliseconds)]
    for row in rows:
        say(_in_words(row, unmeasured))
    return rows


def choose(rankers: list[Measured]) -> Measured:
    """Return the one that ships.

    Raises:
        ExportFailed: no float32 ranker could be made, or none agrees, so the graph itself was converted wrongly.
    """
    exact = [each for each in rankers if each.precision == "float32" and each.agrees]
    if not exact:
        differences = ", ".join(f"{each.form} {each.largest_difference:.3g}" for each in rankers if each.precision == "float32")
        raise ExportFailed(
            f"No float32 ranker gives the SavedModel's scores on golden requests. Differences (allowed: {GOLDEN_TOLERANCE}): {differences or 'none was made'}. "
            "Nothing was exported and what is live stays live; look at which versions of TensorFlow, LiteRT and ONNX Runtime are installed."
        )
    fastest = min(exact, key=lambda each: each.milliseconds)
    small = [each for each in rankers if each.precision == "int8" and each.agrees and each.milliseconds * INT8_FASTER <= fastest.milliseconds]
    return min(small, key=lambda each: each.milliseconds, default=fastest)


def questions(exported: Exported, examples: Examples) -> Inputs | None:
    """Return a request for each of the events that choose: the target first, then the best of the catalogue by the SavedModel; None when there are none.

    The NDCG@10 of such a ranking is that of the whole catalogue but for what a ranker would lift from below the candidates to the first ten.
    """
    rows = examples.selection.target[:MEASURED]
    targets = examples.sequences.item[rows]
    rows, targets = rows[targets > 0], targets[targets > 0]
    if not len(rows):
        return None
    inputs = examples.sequences.histories(rows)
    scores = exported.catalogue(inputs)
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, inputs["history_items"][:, -1:].astype(np.int64), -np.inf, axis=1)  # the item just before is no answer
    np.put_along_axis(scores, targets[:, None].astype(np.int64), np.inf, axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :RANKED_CANDIDATES]
    best[np.take_along_axis(scores, best, axis=1) == -np.inf] = 0
    candidates = np.zeros((len(rows), RANKED_CANDIDATES), np.int32)
    candidates[:, : best.shape[1]] = best
    return inputs | {"candidates": candidates}


def ndcg(scores: Scores) -> float:
    """Return NDCG@10 of [events, candidates] scores where the target is the first candidate."""
    return float(ranks_of(scores, np.zeros(len(scores), np.int64)).gains()["NDCG@10"].mean())


def convert(frozen: Any, form: RankerForm, folder: Path) -> Path:
    """Write a graph in one form into the graph's own folder, which keeps what the forms share; return the file."""
    engine, precision = form.split()
    path = folder / f"{precision}.{SUFFIX[engine]}"
    (_write_litert if engine == "LiteRT" else _write_onnx)(frozen, path, int8=precision == "int8")
    return path


def freeze(model: Any, vectors: npt.NDArray[np.float32]) -> Any:
    """Return the graph that ranks one request, weights as constants: the converters would leave them as variables that nothing fills."""
    import tensorflow as tf  # slow imports: only an export pays for them
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from training.served import Served, rank_inputs

    return convert_variables_to_constants_v2(tf.function(Served(model, tf.constant(vectors)).rank).get_concrete_function(**rank_inputs(1)))


def _write_litert(frozen: Any, path: Path, *, int8: bool) -> None:
    import tensorflow as tf

    from training.served import rank_inputs

    names, saved = _names(frozen), path.with_name("saved_model")
    if not saved.is_dir():
        single = tf.function(lambda **inputs: {RANK_OUTPUT: frozen(*(inputs[name] for name in names))[0]}).get_concrete_function(**rank_inputs(1))
        tf.saved_model.save(tf.Module(), str(saved), signatures={SIGNATURE: single})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved), signature_keys=[SIGNATURE])
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if int8 else []
    path.write_bytes(converter.convert())


def _names(frozen: Any) -> list[str]:
    return [tensor.name.split(":")[0] for tensor in frozen.inputs]


def _write_onnx(frozen: Any, path: Path, *, int8: bool) -> None:
    exact = path.with_name(f"float32{path.suffix}")
    logging.disable(logging.WARNING)  # advice about TensorFlow 1, and to optimise before what ONNX Runtime optimises when it loads it
    try:
        if not exact.is_file():
            _write_exact_onnx(frozen, exact)
        if int8:
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(exact, path)
    finally:
        logging.disable(logging.NOTSET)


def _write_exact_onnx(frozen: Any, path: Path) -> None:
    import onnx
    import tf2onnx

    def log1p(context: Any, node: Any, name: str, _arguments: Any) -> None:  # ONNX has no such operator
        one = context.make_const(f"{name}_one", np.float32(1))
        context.insert_new_node_on_input(node, "Add", [node.input[0], one.output[0]])
        node.type = "Log"

    renamed = {tensor.name: name for tensor, name in zip(frozen.inputs, _names(frozen), strict=True)} | {frozen.outputs[0].name: RANK_OUTPUT}
    graph, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(),
        input_names=[tensor.name for tensor in frozen.inputs],
        output_names=[frozen.outputs[0].name],
        opset=OPSET,
        custom_op_handlers={"Log1p": (log1p, [])},
        tensors_to_rename=renamed,
    )
    onnx.save(graph, path)


def race(rankers: dict[Any, Ranker], requests: Inputs) -> dict[Any, float]:
    """Return each one's milliseconds for a request: the least of rounds in which all take turns, for what else a machine does only adds to it."""
    single = [{name: array[row : row + 1] for name, array in requests.items()} for row in range(len(requests["candidates"]))] * REPEATS
    rounds: dict[Any, list[float]] = {name: [] for name in rankers}
    for _ in range(ROUNDS):
        for name, ranker in rankers.items():
            started = time.perf_counter()
            for request in single:
                ranker.scores(request)
            rounds[name].append((time.perf_counter() - started) / len(single) * 1000)
    return {name: min(taken) for name, taken in rounds.items()}


def _one_by_one(ranker: Ranker, requests: Inputs) -> Scores:
    return np.stack([ranker.scores({name: array[row : row + 1] for name, array in requests.items()}) for row in range(len(requests["candidates"]))])


def _tolerate(folder: Path, difference: float) -> None:
    path = folder / "golden.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | {"ranker_tolerance": difference}))


def _in_words(row: dict[str, Any], unmeasured: str) -> str:
    lost = f"NDCG@10 not measured ({unmeasured})" if row["ndcg_lost"] is None else f"gives up {row['ndcg_lost']:.2%} of NDCG@10"
    verdict = "ships" if row["ships"] else "agrees" if row["agrees"] else "NOT shown to agree"
    size = f"{row['milliseconds']:.3f} ms, {row['megabytes']:.2f} MB"
    return f"ranker {row['form']} {row['precision']}: {size}, {lost}, scores differ by at most {row['largest_difference']:.2g}: {verdict}"
