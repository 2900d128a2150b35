"""The ranker for one request, in this process: LiteRT or ONNX, whichever the model ships."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import RANK_INPUTS, RANK_OUTPUT, RANKERS, SIGNATURE
from evershelf.settings import load_settings

ON_CPU = ("CPUExecutionProvider",)  # where rankers are measured: what the gateways' hosts have, a host that trains may lack

Floats = npt.NDArray[np.float32]


class Ranker(Protocol):
    """On one thread. Not safe for several threads at once: it may keep its inputs."""

    def scores(self, inputs: dict[str, npt.NDArray[Any]]) -> Floats:
        """Return [RANKED_CANDIDATES] from inputs as in RANK_INPUTS, with a batch of 1.

        Raises:
            ValueError: it cannot rank these: an item, an action or a word is outside its vocabulary.
        """


def ranker_in(folder: Path, providers: Sequence[str] = ()) -> Ranker:
    """Open the ranker of a model or a snapshot.

    Args:
        providers: as of `open_ranker`.

    Raises:
        OSError: there is none.
        ValueError: it cannot be loaded, or is not called as evershelf/contracts/model.py says.
    """
    return open_ranker(ranker_file(folder), providers)


def ranker_file(folder: Path) -> Path:
    """Return the file of the ranker of a model or a snapshot.

    Raises:
        FileNotFoundError: there is none.
    """
    for name in RANKERS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"there is no {' and no '.join(RANKERS)}")


def open_ranker(path: Path, providers: Sequence[str] = ()) -> Ranker:
    """Open one file by its suffix; raises as `ranker_in`.

    Args:
        providers: what runs ONNX, best first; default: gateway.onnx_providers.
    """
    return OnnxRanker(path, providers or load_settings().gateway.onnx_providers) if path.suffix == ".onnx" else LiteRTRanker(path)


class LiteRTRanker:
    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter  # here, not above: building and inspecting snapshots need no interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
            signature = self._interpreter.get_signature_runner(SIGNATURE)
            self._inputs = {name: int(signature.get_input_details()[name]["index"]) for name in RANK_INPUTS}
            self._output = int(signature.get_output_details()[RANK_OUTPUT]["index"])
        except (ValueError, RuntimeError, KeyError) as error:
            raise ValueError(f"LiteRT refuses it: {error}") from None

    def scores(self, inputs: dict[str, npt.NDArray[Any]]) -> Floats:
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, inputs[name])
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ValueError(f"LiteRT cannot rank these inputs: {error}") from None
        return cast("Floats", self._interpreter.get_tensor(self._output)[0])


class OnnxRanker:
    def __init__(self, path: Path, providers: Sequence[str]) -> None:
        import onnxruntime  # as above; see also evershelf/vectors.py

        if missing := set(providers) - set(onnxruntime.get_available_providers()):  # it would go on without them, and say so in its own log only
            raise ValueError(f"this ONNX Runtime has no {', '.join(sorted(missing))}, which gateway.onnx_providers names")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its errors share no class of their own
            raise ValueError(f"ONNX Runtime refuses it: {error}") from None
        takes, gives = (sorted(each.name for each in some) for some in (self._session.get_inputs(), self._session.get_outputs()))
        if (takes, gives) != (sorted(RANK_INPUTS), [RANK_OUTPUT]):
            raise ValueError(f"it takes {takes} and gives {gives}; a ranker takes {sorted(RANK_INPUTS)} and gives {[RANK_OUTPUT]}")

    def scores(self, inputs: dict[str, npt.NDArray[Any]]) -> Floats:
        try:
            return cast("Floats", self._session.run([RANK_OUTPUT], {name: inputs[name] for name in RANK_INPUTS})[0][0])
        except Exception as error:  # as above
            raise ValueError(f"ONNX Runtime cannot rank these inputs: {error}") from None
