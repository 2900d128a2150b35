"""A shop's own ranker, as tests have it: NumPy is the shop's framework, and the same mathematics is written as an ONNX graph.

It is a table: how much each item is liked after each other one, [items, items] float32 by the model's numbers; row 0 is for who has no history.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from evershelf.contracts.model import HISTORY_LENGTH, RANK_INPUTS, RANK_OUTPUT, RANKED_CANDIDATES

LOWEST = float(np.finfo(np.float32).min)
KINDS = {"int32": onnx.TensorProto.INT32, "float32": onnx.TensorProto.FLOAT}

Table = npt.NDArray[np.float32]


def answered(questions: dict[str, Any], table: Table) -> dict[str, Any]:
    """Return golden requests with their scores, as the shop's own framework gives them."""
    requests = [request["inputs"] for request in questions["requests"]]
    for inputs in requests:
        assert set(inputs) == set(RANK_INPUTS)
    scored = [np.where(np.array(each["candidates"]) == 0, LOWEST, table[each["history_items"][-1], each["candidates"]]) for each in requests]
    return {"requests": [{"inputs": inputs, "scores": scores.tolist()} for inputs, scores in zip(requests, scored, strict=True)]}


def write(path: Path, table: Table, *, padding: float = LOWEST, noise: float = 0.0, left_out: str = "") -> Path:
    """Write the graph.

    Args:
        padding: what candidate 0 scores.
        noise: how much scores differ from one call to the next.
        left_out: an input that it does not take.
    """
    constants = {
        "table": table,
        "newest": np.array([HISTORY_LENGTH - 1]),
        "row": np.array([1, table.shape[1]]),
        "none": np.zeros(1, np.int32),
        "padding": np.array([padding], np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["history_items", "newest"], ["last"], axis=1),
        helper.make_node("Gather", ["table", "last"], ["rows"], axis=0),
        helper.make_node("Reshape", ["rows", "row"], ["liked"]),
        helper.make_node("GatherElements", ["liked", "candidates"], ["exact"], axis=1),
        helper.make_node("Equal", ["candidates", "none"], ["is_padding"]),
        helper.make_node("Where", ["is_padding", "padding", "noisy" if noise else "exact"], [RANK_OUTPUT]),
    ]
    if noise:  # a scale of 0 takes ONNX Runtime down
        nodes[4:4] = [helper.make_node("RandomNormalLike", ["exact"], ["noise"], scale=noise), helper.make_node("Add", ["exact", "noise"], ["noisy"])]
    inputs = [helper.make_tensor_value_info(name, KINDS[kind], [1, length]) for name, (kind, length) in RANK_INPUTS.items() if name != left_out]
    output = helper.make_tensor_value_info(RANK_OUTPUT, onnx.TensorProto.FLOAT, [1, RANKED_CANDIDATES])
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "what comes next", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())
