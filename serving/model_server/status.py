"""Errors as TensorFlow Serving states them: a canonical code and a message."""

import grpc
import tensorflow as tf

from serving.errors import ModelServerError

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LONGEST = 1024  # characters; model_servers/grpc_status_util.cc


class StatusError(ModelServerError):
    """One request, load or configuration was refused; everything else goes on."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = message if len(message) <= _LONGEST else message[:_LONGEST] + "...TRUNCATED"
        super().__init__(f"{code.name}: {self.message}")

    @property
    def number(self) -> int:
        return int(self.code.value[0])


def invalid(message: str) -> StatusError:
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def of(error: Exception) -> StatusError:
    """Return any error as a status; TensorFlow's own keep their code."""
    if isinstance(error, StatusError):
        return error
    if isinstance(error, tf.errors.OpError):
        return StatusError(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message)
    if isinstance(error, ValueError | TypeError):  # Session.run checks shapes in Python
        return invalid(str(error))
    return StatusError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
