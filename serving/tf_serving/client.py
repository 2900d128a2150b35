"""Two clients of the model server: one ranks for shoppers, one administers for promotions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import grpc
import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray

from evershelf.contracts.model import MODEL_NAME, RANK_OUTPUT, SIGNATURE
from serving.errors import ModelServerError
from serving.tf_serving import serving_pb2 as pb
from serving.tf_serving import tensors

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"

# gRPC waits up to two minutes between attempts to reconnect; a model server that is back must be used within a second.
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a client of its own never inherits another's backoff
)

_STATES = {number: name for name, number in pb.ModelVersionStatus.State.items()}


class VersionStatus(NamedTuple):
    """State of one version (START, LOADING, AVAILABLE, UNLOADING, END) and the error that ended it, '' when none."""

    state: str
    error: str


class RankerClient:
    """Ranks candidates for requests, over one channel.

    Args:
        address: host:port of the model server. Nothing is connected before the first call.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._predict = self._channel.unary_unary(
            _PREDICT, request_serializer=pb.PredictRequest.SerializeToString, response_deserializer=pb.PredictResponse.FromString
        )

    async def rank(self, version: int, inputs: Mapping[str, NDArray[Any]], timeout: float) -> tuple[NDArray[np.float32], int]:
        """Score candidates.

        Args:
            version: the model version that must answer.
            inputs: the arrays that `RANK_INPUTS` names.
            timeout: seconds; a server that is away fails at once and is tried again in the background.

        Returns:
            [batch, candidates] float32 scores, and the version that the server says it used.

        Raises:
            ModelServerError: no answer, a refusal, or an answer without scores.
        """
        try:
            response = await self._predict(_predict_request(version, inputs), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            _fail(self._address, "rank candidates", error)
        return _scores(response)

    async def close(self) -> None:
        await self._channel.close()


class ModelServerAdmin:
    """Loads and unloads versions and looks at what is loaded.

    Args:
        address: host:port of the model server.
        timeout: seconds for one call.
    """

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        self._address, self._timeout = address, timeout
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._predict = self._channel.unary_unary(
            _PREDICT, request_serializer=pb.PredictRequest.SerializeToString, response_deserializer=pb.PredictResponse.FromString
        )
        self._status = self._channel.unary_unary(
            _STATUS, request_serializer=pb.GetModelStatusRequest.SerializeToString, response_deserializer=pb.GetModelStatusResponse.FromString
        )
        self._reload = self._channel.unary_unary(
            _RELOAD, request_serializer=pb.ReloadConfigRequest.SerializeToString, response_deserializer=pb.ReloadConfigResponse.FromString
        )

    def reload(self, versions: Sequence[int], labels: Mapping[str, int], base_path: Path) -> None:
        """Ask for exactly these versions; they load in the background, so poll `status` afterwards.

        Args:
            versions: at least one; an empty list would unload everything.
            labels: label to version; each version must be AVAILABLE already.
            base_path: the folder that holds one folder per version.

        Raises:
            ModelServerError: the server is away or refused.
        """
        request = pb.ReloadConfigRequest(config=server_config(versions, labels, base_path))
        try:
            response = self._reload(request, timeout=self._timeout)
        except grpc.RpcError as error:
            _fail(self._address, f"load versions {list(versions)}", error)
        if response.status.error_code:
            raise ModelServerError(
                f"The model server at {self._address} refused versions {list(versions)}: {response.status.error_message}. What it served, it still serves."
            )

    def status(self) -> dict[int, VersionStatus]:
        """Return every version that the server knows, highest first; empty when it never had the model.

        Raises:
            ModelServerError: the server is away.
        """
        request = pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=MODEL_NAME))
        try:
            response = self._status(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            _fail(self._address, "say what it has loaded", error)
        return {entry.version: VersionStatus(_STATES.get(entry.state, "UNKNOWN"), entry.status.error_message) for entry in response.model_version_status}

    def predict(self, version: int, inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], int]:
        """Score candidates; see `RankerClient.rank`."""
        try:
            response = self._predict(_predict_request(version, inputs), timeout=self._timeout)
        except grpc.RpcError as error:
            _fail(self._address, "rank candidates", error)
        return _scores(response)

    def close(self) -> None:
        self._channel.close()


def server_config(versions: Sequence[int], labels: Mapping[str, int], base_path: Path) -> pb.ModelServerConfig:
    """Return the configuration that makes a model server hold exactly these versions of the ranker.

    Raises:
        ModelServerError: no version is named; that would unload everything.
    """
    if not versions:
        raise ModelServerError(
            "The model server was about to be told to hold no version, which would unload everything. It was not told; name at least one version."
        )
    config = pb.ModelServerConfig()
    # always with the platform: without it the server stores a configuration that blocks every later one (tensorflow_serving/model_servers/server_core.cc)
    model = config.model_config_list.config.add(name=MODEL_NAME, base_path=str(base_path.absolute()), model_platform="tensorflow", version_labels=labels)
    model.model_version_policy.specific.versions.extend(sorted(set(versions)))
    return config


def config_file_content(config: pb.ModelServerConfig) -> bytes:
    """Return a configuration as the text that `--model_config_file` of TensorFlow Serving reads."""
    return str(text_format.MessageToString(config)).encode()


def _predict_request(version: int, inputs: Mapping[str, NDArray[Any]]) -> pb.PredictRequest:
    request = pb.PredictRequest(output_filter=[RANK_OUTPUT])
    request.model_spec.name, request.model_spec.signature_name = MODEL_NAME, SIGNATURE
    request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tensors.encode(array))
    return request


def _scores(response: pb.PredictResponse) -> tuple[NDArray[np.float32], int]:
    if RANK_OUTPUT not in response.outputs:
        raise ModelServerError(f"The model server's answer has no output '{RANK_OUTPUT}'. It was not used; check the model's signature.")
    return tensors.decode(response.outputs[RANK_OUTPUT]).astype(np.float32, copy=False), response.model_spec.version.value


def _fail(address: str, wish: str, error: grpc.RpcError) -> NoReturn:
    raise ModelServerError(
        f"The model server at {address} did not {wish}: {error.code().name}, {error.details()}. Gateways answer from the next rung; see whether it runs."
    ) from None
