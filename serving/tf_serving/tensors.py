"""NumPy arrays to tensor messages and back."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import ModelServerError
from serving.tf_serving import serving_pb2 as pb

# TensorFlow's DataType numbers (tensorflow/core/framework/types.proto), and the field that carries the values when `tensor_content` does not
_TYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype(np.float32), "float_val"),
    2: (np.dtype(np.float64), "double_val"),
    3: (np.dtype(np.int32), "int_val"),
    9: (np.dtype(np.int64), "int64_val"),
}
_NUMBERS = {dtype: number for number, (dtype, _) in _TYPES.items()}


def encode(array: NDArray[Any]) -> pb.TensorProto:
    """Return an array as a tensor message; the bytes travel as they lie in memory (little-endian).

    Raises:
        ModelServerError: the array is none of float32, float64, int32, int64.
    """
    number = _NUMBERS.get(array.dtype)
    if number is None:
        raise ModelServerError(
            f"A tensor of type {array.dtype} cannot be sent to the model server; it was not asked. Cast it to the type that the model contract names."
        )
    message = pb.TensorProto(dtype=number, tensor_content=np.ascontiguousarray(array).tobytes())
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    return message


def decode(message: pb.TensorProto) -> NDArray[Any]:
    """Return a tensor message as an array of its shape.

    TensorFlow may leave out values that repeat the last one (tensor.proto), so a typed field that is too short is filled up with its last value.

    Raises:
        ModelServerError: a type or a number of values that the message's own shape does not allow.
    """
    if message.dtype not in _TYPES:
        raise ModelServerError(f"The model server answered a tensor of type number {message.dtype}, which no ranker has. It was not used; check the signature.")
    dtype, field = _TYPES[message.dtype]
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    size = math.prod(shape)
    values: NDArray[Any] = np.frombuffer(message.tensor_content, dtype) if message.tensor_content else np.array(getattr(message, field), dtype)
    if not message.tensor_content and 0 < values.size < size:
        values = np.concatenate([values, np.full(size - values.size, values[-1], dtype)])
    if message.tensor_shape.unknown_rank or min(shape, default=0) < 0 or values.size != size:
        raise ModelServerError(f"The model server answered {values.size} values for a tensor of shape {shape}. They were not used; check the model.")
    return values.reshape(shape)
