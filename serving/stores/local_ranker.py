"""The ranker in this process, for when the model server is not to be had."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evershelf.contracts.model import RANK_INPUTS, RANK_OUTPUT, SIGNATURE

Floats = npt.NDArray[np.float32]


class LocalRanker:
    """The LiteRT model of one snapshot, on one thread. Not safe for several threads at once: it keeps its inputs."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter  # here, not above: building and inspecting snapshots need no interpreter

        self._interpreter = Interpreter(model_path=str(path), num_threads=1)
        self._interpreter.allocate_tensors()
        signature = self._interpreter.get_signature_runner(SIGNATURE)
        self._inputs = {name: int(signature.get_input_details()[name]["index"]) for name in RANK_INPUTS}
        self._output = int(signature.get_output_details()[RANK_OUTPUT]["index"])

    def scores(self, inputs: dict[str, npt.NDArray[Any]]) -> Floats:
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, inputs[name])
        self._interpreter.invoke()
        return cast("Floats", self._interpreter.get_tensor(self._output)[0])
