"""Texts as vectors, by a pretrained encoder of the BERT family: near each other where they mean the same, whatever words they use.

Runs in LiteRT, so that a gateway needs no TensorFlow; training/text_encoder.py makes the folder that is read here from one that its publishers wrote.

Sources: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019 (mean of the last layer's states); Wang et al., "MiniLM", NeurIPS 2020.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

LENGTHS = (8, 16, 32, 64)  # tokens; a text takes the shortest that holds it, what is beyond the last is not read: what a product is stands at its beginning
ENCODER, TOKENIZER = "encoder.tflite", "tokenizer.json"
TOKENS, VECTOR = "tokens", "vector"  # input and output of each signature
_TOLD_EVERY = 500  # texts

Vectors = npt.NDArray[np.float32]


def signature(length: int) -> str:
    """Return the name of the signature for texts of so many tokens."""
    return f"encode_{length}"


class TextEncoder:
    """An open encoder. Not safe for several threads at once: the interpreter keeps its inputs.

    Attributes:
        width: of a vector.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Open the encoder in a folder.

        Raises:
            OSError, ValueError: it cannot be opened.
        """
        from ai_edge_litert.interpreter import Interpreter  # slow imports: only who embeds needs them
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # it raises nothing narrower
            raise ValueError(f"{folder / TOKENIZER} cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LENGTHS[-1])
        interpreter = Interpreter(model_path=str(folder / ENCODER), num_threads=threads)
        self._runners = {length: interpreter.get_signature_runner(signature(length)) for length in LENGTHS}
        for length, run in self._runners.items():
            run(**{TOKENS: np.zeros((1, length), np.int32)})  # the first call of each packs weights: better now than while a shopper waits
        self.width = int(self._runners[LENGTHS[0]].get_output_details()[VECTOR]["shape"][-1])

    def vectors(self, texts: Sequence[str], report: Callable[[int], None] = lambda done: None) -> Vectors:
        """Return [texts, width], each of length 1.

        Args:
            report: is called now and then with how many texts are done.
        """
        found = np.empty((len(texts), self.width), np.float32)
        for place, encoding in enumerate(self._tokenizer.encode_batch(list(texts))):
            length = LENGTHS[bisect_left(LENGTHS, len(encoding.ids))]
            tokens = np.zeros((1, length), np.int32)
            tokens[0, : len(encoding.ids)] = encoding.ids
            found[place] = self._runners[length](**{TOKENS: tokens})[VECTOR][0]
            if place % _TOLD_EVERY == _TOLD_EVERY - 1:
                report(place + 1)
        return found

    def vector(self, text: str) -> Vectors:
        """Return [width], of length 1."""
        vector: Vectors = self.vectors([text])[0]
        return vector
