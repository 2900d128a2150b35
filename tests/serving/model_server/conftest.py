"""A model server on a free port, and tiny SavedModels whose answer names their version."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving.model_server.core import ServerCore
from serving.model_server.services import listen
from serving.model_server.states import State


@pytest.fixture(scope="session")
def adder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x + 0.5 and z = -x; x is [batch] float32. The signature `slow` answers once the file `finish` stands beside the model's folder."""
    folder = tmp_path_factory.mktemp("models") / "adder"
    finish = str(folder.with_name("finish"))

    class Adder(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x + 0.5, "z": -x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def slow(self, x: Any) -> dict[str, Any]:
            def waits(at: Any, _: Any) -> Any:
                # The pattern depends on the turn, or the optimizer would look for the file only once.
                return tf.equal(tf.size(tf.io.matching_files(tf.strings.join([finish, tf.strings.substr(tf.strings.as_string(at), 0, 0)]))), 0)

            return {"y": tf.while_loop(waits, lambda at, value: (at + 1, value), (0, x))[1]}

    module = Adder()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__, "second": module.__call__, "slow": module.slow})
    return folder


class Caller:
    """Calls a model server with the stubs of tensorflow-serving-api."""

    def __init__(self, address: str, base: Path, adder: Path) -> None:
        self.base, self._adder = base, adder
        self.channel = grpc.insecure_channel(address)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def publish(self, version: int | str, model: str = "m", warmup: list[bytes] | None = None, broken: bool = False) -> Path:
        folder = self.base / model / str(version)
        staged = self.base / model / f"{version}.tmp"
        shutil.copytree(self._adder, staged)
        if warmup is not None:
            (staged / "assets.extra").mkdir()
            with tf.io.TFRecordWriter(str(staged / "assets.extra" / "tf_serving_warmup_requests")) as writer:
                for record in warmup:
                    writer.write(record)
        if broken:
            (staged / "saved_model.pb").unlink()
        return staged.rename(folder)

    def request(self, version: int | None = None, label: str = "", signature: str = "", model: str = "m", **inputs: Any) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, signature
        if version is not None:
            request.model_spec.version.value = version
        if label:
            request.model_spec.version_label = label
        for name, value in (inputs or {"x": [1.0]}).items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return request

    def predict(self, *args: Any, **inputs: Any) -> predict_pb2.PredictResponse:
        return self.prediction.Predict(self.request(*args, **inputs), timeout=10)

    def metadata(self, *fields: str, label: str = "") -> get_model_metadata_pb2.GetModelMetadataResponse:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        request.model_spec.name = "m"
        if label:
            request.model_spec.version_label = label
        return self.prediction.GetModelMetadata(request, timeout=10)

    def status(self, model: str = "m", version: int | None = None) -> dict[int, tuple[State, int]]:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        if version is not None:
            request.model_spec.version.value = version
        response = self.models.GetModelStatus(request, timeout=10)
        return {entry.version: (State(entry.state), entry.status.error_code) for entry in response.model_version_status}

    def reload(self, *versions: int, labels: dict[str, int] | None = None, timeout: float = 20, **model: Any) -> None:
        """Configure one model: exactly these versions, or the newest when none is named."""
        self.reload_all({"name": "m", "versions": versions, "version_labels": labels or {}, **model}, timeout=timeout)

    def reload_all(self, *models: dict[str, Any], timeout: float = 20) -> None:
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.SetInParent()
        for model in models:
            versions = model.pop("versions", ())
            config = request.config.model_config_list.config.add(**{"model_platform": "tensorflow", "base_path": str(self.base / model["name"]), **model})
            if versions:
                config.model_version_policy.specific.versions.extend(versions)
        self.models.HandleReloadConfigRequest(request, timeout=timeout)

    def warm_request(self, **inputs: Any) -> bytes:
        return bytes(prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=self.request(**inputs))).SerializeToString())


@pytest.fixture
def finish(adder: Path) -> Iterator[Path]:
    """Touched by a test, it lets the `slow` requests finish, and the server stop: a test that uses both names it after the server."""
    finish = adder.with_name("finish")
    yield finish
    finish.touch()
    time.sleep(0.1)
    finish.unlink()


@pytest.fixture
def start(tmp_path: Path, adder: Path, home: Path) -> Iterator[Callable[..., Caller]]:
    """Start a server that holds nothing; `retries` and the poll are quick."""
    running: list[tuple[ServerCore, grpc.Server, Caller]] = []

    def _start(retries: int = 0, retry_s: float = 0.05) -> Caller:
        core = ServerCore(retries, retry_s, poll_s=0.05)
        server, port = listen(core, "127.0.0.1:0")
        caller = Caller(f"127.0.0.1:{port}", tmp_path / "models", adder)
        running.append((core, server, caller))
        return caller

    yield _start
    for core, server, caller in running:
        caller.channel.close()
        server.stop(grace=0).wait()
        core.close()


@pytest.fixture
def server(start: Callable[..., Caller]) -> Caller:
    return start()
