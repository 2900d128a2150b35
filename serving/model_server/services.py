"""The gRPC services: PredictionService (Predict, GetModelMetadata) and ModelService. Every other method answers UNIMPLEMENTED."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from evershelf.telemetry import MODEL_SERVER_REQUESTS, MODEL_SERVER_SECONDS, metrics
from serving.errors import ModelServerError
from serving.model_server.core import ServerCore
from serving.model_server.status import StatusError, invalid, of

Answer = TypeVar("Answer")

MAX_MESSAGE_BYTES = 64 << 20
RPC_THREADS = 8
LONGEST_S = 3600.0  # gRPC reports no deadline as three hundred thousand million years


def listen(core: ServerCore, address: str) -> tuple[grpc.Server, int]:
    """Start to answer on host:port; port 0 takes a free one.

    Returns:
        The running server and its port.

    Raises:
        ModelServerError: the address is taken or not this machine's.
    """
    server = grpc.server(
        ThreadPoolExecutor(RPC_THREADS, thread_name_prefix="rpc"),
        options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)),  # two servers on one port would share its requests
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(core), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise ModelServerError(
            f"The model server cannot listen on {address}: it is taken or is no address of this machine. Nothing was started; set another one."
        )
    server.start()
    return server, port


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]  # generated code has no types
    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def Predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> predict_pb2.PredictResponse:  # noqa: N802
        started = time.perf_counter()
        response, code = _answer(context, lambda: self._predict(request, min(context.time_remaining(), LONGEST_S)))
        metrics().incr(MODEL_SERVER_REQUESTS.format(status=code.name))
        metrics().timing(MODEL_SERVER_SECONDS, (time.perf_counter() - started) * 1000)
        return response or predict_pb2.PredictResponse()

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        return _answer(context, lambda: self._metadata(request))[0] or get_model_metadata_pb2.GetModelMetadataResponse()

    def _predict(self, request: predict_pb2.PredictRequest, timeout: float) -> predict_pb2.PredictResponse:
        _need_spec(request)
        with self._core.in_use(request.model_spec) as servable:
            return servable.predict(request, timeout)

    def _metadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        _need_spec(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._core.in_use(request.model_spec) as servable:
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.model_spec.name = servable.model
            response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]  # generated code has no types
    def __init__(self, core: ServerCore) -> None:
        self._core = core

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        return _answer(context, lambda: self._status(request))[0] or get_model_status_pb2.GetModelStatusResponse()

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        _answer(context, lambda: self._core.reload(request.config))
        return model_management_pb2.ReloadConfigResponse()  # its status is OK; a refusal is the call's own status

    def _status(self, request: get_model_status_pb2.GetModelStatusRequest) -> get_model_status_pb2.GetModelStatusResponse:
        _need_spec(request)
        spec = request.model_spec
        if not spec.name:
            raise invalid("ModelSpec has no name specified")
        versions = self._core.states.versions(spec.name)
        if not versions:
            raise StatusError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        if spec.WhichOneof("version_choice") == "version":  # a label is ignored
            if spec.version.value not in versions:
                raise StatusError(grpc.StatusCode.NOT_FOUND, f"Could not find version {spec.version.value} of model {spec.name}")
            versions = {spec.version.value: versions[spec.version.value]}
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, entry in versions.items():
            status = response.model_version_status.add(version=version, state=int(entry.state))
            status.status.error_code = entry.error.number if entry.error else 0
            status.status.error_message = entry.error.message if entry.error else ""
        return response


def _need_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")


def _answer(context: grpc.ServicerContext, work: Callable[[], Answer]) -> tuple[Answer | None, grpc.StatusCode]:
    """Do the work of one call; an error becomes the call's status."""
    try:
        return work(), grpc.StatusCode.OK
    except Exception as error:
        status = of(error)
        context.set_code(status.code)
        context.set_details(status.message)
        return None, status.code
