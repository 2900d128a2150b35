"""One loaded version: a SavedModel in a TensorFlow session, as TensorFlow Serving runs it.

Follows servables/tensorflow/predict_util.cc and saved_model_warmup_util.cc.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.model_server.status import StatusError, invalid, of

THREADS = 2
WARMUP = Path("assets.extra/tf_serving_warmup_requests")
MAX_WARMUP_RECORDS = 1000
DEFAULT_SIGNATURE = "serving_default"


class Servable:
    """Load one SavedModel folder and run its warm-up records.

    Raises:
        StatusError: no SavedModel, a broken one, or a warm-up record that fails.
    """

    def __init__(self, model: str, version: int, folder: Path) -> None:
        self.model, self.version = model, version
        self._in_flight, self._closing = 0, False
        self._idle = threading.Condition()
        self._callables: dict[tuple[str, ...], Callable[..., Any]] = {}
        if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            raise StatusError(
                grpc.StatusCode.NOT_FOUND,
                f"Specified file path does not appear to contain a SavedModel bundle (should have a file called `saved_model.pb`): {folder}",
            )
        self._session = tf.compat.v1.Session(
            graph=tf.Graph(),
            config=tf.compat.v1.ConfigProto(intra_op_parallelism_threads=THREADS, inter_op_parallelism_threads=THREADS),
        )
        try:
            with self._session.graph.as_default():
                graph = tf.compat.v1.saved_model.loader.load(self._session, [tf.saved_model.SERVING], str(folder))
            self.signatures: dict[str, SignatureDef] = {name: value for name, value in graph.signature_def.items() if not name.startswith("__")}
            self._warm_up(folder / WARMUP)
        except Exception as error:
            self._session.close()
            raise of(error) from error

    def take(self) -> bool:
        """Keep the version loaded until `give_back`; False when it is going already."""
        with self._idle:
            self._in_flight += not self._closing
            return not self._closing

    def give_back(self) -> None:
        with self._idle:
            self._in_flight -= 1
            self._idle.notify_all()

    def close(self) -> None:
        """Release the memory once no request uses the version any more."""
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: self._in_flight == 0)
        self._session.close()

    def predict(self, request: predict_pb2.PredictRequest, timeout: float | None) -> predict_pb2.PredictResponse:
        """Answer one Predict request.

        Args:
            timeout: seconds that the client still waits; None when it waits for ever.

        Raises:
            StatusError: with the code and words of TensorFlow Serving.
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        signature = self.signatures.get(name)
        if signature is None:
            raise StatusError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        feeds = _feeds(signature, request)
        aliases = _fetches(signature, list(request.output_filter))
        options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(timeout * 1000)) if timeout else 0)
        try:
            run = self._callable(tuple(feeds), tuple(signature.outputs[alias].name for alias in aliases))
            values = run(*feeds.values(), options=options)
        except Exception as error:
            raise of(error) from error
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = self.model, name
        response.model_spec.version.value = self.version
        for alias, value in zip(aliases, values, strict=True):
            response.outputs[alias].CopyFrom(_typed(value))
        return response

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., Any]:
        """Return the compiled run of these feeds and fetches; preparing it costs more than a small ranker's run."""
        key = (*feeds, "->", *fetches)
        if key not in self._callables:
            self._callables[key] = self._session.make_callable(list(fetches), feed_list=list(feeds), accept_options=True)
        return self._callables[key]

    def _warm_up(self, path: Path) -> None:
        if not path.is_file():
            return
        for count, raw in enumerate(tf.compat.v1.io.tf_record_iterator(str(path)), start=1):
            if count > MAX_WARMUP_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {path}")
            try:
                log = prediction_log_pb2.PredictionLog.FromString(raw)
            except DecodeError:
                raise invalid(f"Failed to parse warmup record: {path}") from None
            if log.WhichOneof("log_type") != "predict_log":
                raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {log.WhichOneof('log_type')}")
            self.predict(log.predict_log.request, None)


def _feeds(signature: SignatureDef, request: predict_pb2.PredictRequest) -> dict[str, Any]:
    """Return tensor name -> value of every input, checked against the signature."""
    sent, wanted = set(request.inputs), set(signature.inputs)
    required = wanted - set(signature.defaults)
    if len(sent) > len(wanted) or len(sent) < len(required):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != len({_set(wanted)}). "
            f"Sent extra: {_set(sent - wanted)}. Missing but required: {_set(required - sent)}."
        )
    feeds = {}
    for alias in sorted(sent):
        if alias not in wanted:
            raise invalid(f"tensorflow.SignatureDef: Signature input alias: {alias} not found in signature inputs {_set(wanted)}")
        info, message = signature.inputs[alias], request.inputs[alias]
        try:
            value = tf.make_ndarray(message)
        except (ValueError, TypeError):  # what does not decode: too few bytes, unknown type
            raise invalid(f"tensor parsing error: {alias}") from None
        if message.dtype != info.dtype:
            raise invalid(f"input {alias}: Expects it to be {_type_name(info.dtype)} but {_type_name(message.dtype)} is provided.")
        feeds[info.name] = value
    for alias in required - sent:
        raise invalid(f"input size does not match signature. Missing but required: {_set({alias})}.")
    for alias in wanted - sent:
        feeds[signature.inputs[alias].name] = tf.make_ndarray(signature.defaults[alias])
    return feeds


def _fetches(signature: SignatureDef, wanted: list[str]) -> list[str]:
    for alias in wanted:
        if alias not in signature.outputs:
            raise invalid(f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {_set(signature.outputs)}.")
        if wanted.count(alias) > 1:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return wanted or sorted(signature.outputs)


def _typed(value: Any) -> Any:
    """Return a value as a tensor message with typed fields, never `tensor_content`, as the original sends it."""
    message = tf.make_tensor_proto(value)
    if message.tensor_content:
        field = {types_pb2.DT_FLOAT: "float_val", types_pb2.DT_DOUBLE: "double_val", types_pb2.DT_INT64: "int64_val", types_pb2.DT_BOOL: "bool_val"}.get(
            message.dtype, "int_val"
        )
        message.ClearField("tensor_content")
        getattr(message, field).extend(value.ravel().tolist())
    return message


def _set(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _type_name(number: int) -> str:
    return str(tf.as_dtype(number).name.replace("32", "") if number == types_pb2.DT_FLOAT else tf.as_dtype(number).name)
