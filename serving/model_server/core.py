"""The server's configuration and labels, and which version a request means. Follows model_servers/server_core.cc."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving.errors import ModelServerError
from serving.model_server.manager import VersionManager
from serving.model_server.servable import Servable
from serving.model_server.source import FileSystemSource
from serving.model_server.states import State, StateMonitor
from serving.model_server.status import StatusError, invalid


class ServerCore:
    """One model server without its network side.

    Args:
        retries, retry_s: attempts after a failed load, and the seconds between them.
        poll_s: seconds between two looks at the models' folders.
    """

    def __init__(self, retries: int, retry_s: float, poll_s: float) -> None:
        self.states = StateMonitor()
        self._manager = VersionManager(self.states, retries, retry_s)
        self._source = FileSystemSource(self._manager, poll_s)
        self._config: dict[str, ModelConfig] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._reloading = threading.Lock()
        self._manager.start()
        self._source.start()

    def reload(self, config: ModelServerConfig) -> None:
        """Replace the whole configuration; return when every new model has a version that serves.

        Versions of models that were there before load later: an OK says accepted, not loaded. There is no time limit and no way back, as in the original.

        Raises:
            StatusError: refused, or a new model's version failed (the rest of the configuration holds nevertheless).
        """
        if config.WhichOneof("config") != "model_config_list":
            raise invalid("ServerConfig must be either a list of ModelConfigs or a custom_model_config; only model_config_list is supported.")
        with self._reloading:
            models = self._checked(config)
            new = models.keys() - self._config.keys()
            self._config = models
            self._labels = self._checked_labels(models)
            for name in new:
                if _platform(models[name]) != "tensorflow":
                    raise invalid(f"ModelConfig of {name} has unsupported platform: {models[name].model_platform}")
            before = self.states.change
            self._source.watch(models)
            if not self.states.wait(lambda: all(self.states.settled(name, before) for name in new)):
                raise StatusError(grpc.StatusCode.CANCELLED, "the server is shutting down")
            failed = [name for name in sorted(new) if (entry := self.states.settled(name, before)) and entry.state is State.END]
            if failed:
                reasons = "".join(f"{{{name} due to error: {self._reason(name)}}}" for name in failed)
                raise StatusError(grpc.StatusCode.UNKNOWN, f"{len(failed)} model(s) did not become available: {reasons}")

    @contextmanager
    def in_use(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """Yield the version that a request means, which stays loaded meanwhile.

        Raises:
            StatusError: no name, an unknown label, nothing loaded.
        """
        while not (servable := self._servable(spec)).take():
            pass  # it went between the two steps: look again
        try:
            yield servable
        finally:
            servable.give_back()

    def _servable(self, spec: model_pb2.ModelSpec) -> Servable:
        if not spec.name:
            raise invalid("ModelSpec has no name specified")
        match spec.WhichOneof("version_choice"):
            case "version":
                return self._manager.servable(spec.name, spec.version.value)
            case "version_label":
                labels = self._labels.get(spec.name, {})
                if spec.version_label not in labels:
                    raise invalid(f"Unrecognized servable version label: {spec.version_label}")
                return self._manager.servable(spec.name, labels[spec.version_label])
            case _:
                return self._manager.servable(spec.name, None)

    def close(self) -> None:
        self.states.close()
        self._source.close()
        self._manager.close()

    def _checked(self, config: ModelServerConfig) -> dict[str, ModelConfig]:
        models: dict[str, ModelConfig] = {}
        for model in config.model_config_list.config:
            if model.name in models:
                raise invalid(f"Illegal to list model {model.name} multiple times in config list")
            if "://" not in model.base_path and not Path(model.base_path).is_absolute():
                raise invalid(f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}")
            if (old := self._config.get(model.name)) is not None and _platform(old) != _platform(model):
                raise invalid(
                    f"Illegal to change a model's platform. For model {model.name}, new platform is {_platform(model)}, old platform is {_platform(old)}."
                )
            models[model.name] = model
        return models

    def _checked_labels(self, models: dict[str, ModelConfig]) -> dict[str, dict[str, int]]:
        for name, model in models.items():
            for label, version in model.version_labels.items():
                if not self.states.available(name, version):
                    raise StatusError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label {label} to version {version} of model {name}, which is not currently available for inference",
                    )
        return {name: dict(model.version_labels) for name, model in models.items() if model.version_labels}

    def _reason(self, name: str) -> str:
        errors = (entry.error for entry in self.states.versions(name).values() if entry.error)
        return str(next(errors, "it was unloaded"))


def read_config(path: Path) -> ModelServerConfig:
    """Read a `--model_config_file`.

    Raises:
        ModelServerError: not readable, or not the text form of a ModelServerConfig.
    """
    try:
        config = text_format.Parse(path.read_text(), ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ModelServerError(f"The model configuration {path} cannot be used: {error}. The model server did not start; correct or remove the file.") from None
    assert isinstance(config, ModelServerConfig)
    return config


def _platform(model: ModelConfig) -> str:
    if not model.model_platform and not model.model_type:
        raise invalid("Illegal setting neither ModelServerConfig::model_type nor ModelServerConfig::model_platform")
    return str(model.model_platform) or "tensorflow"  # the only model_type besides OTHER
