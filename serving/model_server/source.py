"""Finds the versions of every configured model on disk, once a second.

Follows sources/storage_path/file_system_storage_path_source.cc.
"""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

from serving.model_server.manager import VersionManager

logger = logging.getLogger(__name__)


class FileSystemSource:
    """Tell the manager which versions to aspire.

    Args:
        poll_s: seconds between two looks.
    """

    def __init__(self, manager: VersionManager, poll_s: float) -> None:
        self._manager, self._poll_s = manager, poll_s
        self._models: dict[str, ModelConfig] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file-system-source", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def watch(self, models: Mapping[str, ModelConfig]) -> None:
        """Watch exactly these models from the next look on; those that are left out unload."""
        with self._lock:
            for removed in self._models.keys() - models.keys():
                self._manager.aspire(removed, {})
            self._models = dict(models)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                try:
                    found = {name: _aspired(config, _on_disk(Path(config.base_path))) for name, config in self._models.items()}
                except OSError as error:
                    # as the original: one missing base path stops the look for every model, so nothing unloads because a disk is away
                    logger.error("A model's base path cannot be read (%s); no model was loaded or unloaded. Bring the folder back or remove the model.", error)
                else:
                    for name, versions in found.items():
                        self._manager.aspire(name, versions)
            if self._stopped.wait(self._poll_s):
                return


def _on_disk(base: Path) -> dict[int, Path]:
    """Return version -> folder for every child whose whole name is a number."""
    return {int(child.name): child for child in sorted(base.iterdir()) if child.name.isascii() and child.name.isdigit()}


def _aspired(config: ModelConfig, found: Mapping[int, Path]) -> dict[int, Path]:
    policy = config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "specific":
            for version in set(policy.specific.versions) - found.keys():
                logger.warning("Version %d of %s, which should be loaded, is not in %s", version, config.name, config.base_path)
            return {version: found[version] for version in policy.specific.versions if version in found}
        case "all":
            return dict(found)
        case _:
            newest = sorted(found, reverse=True)[: policy.latest.num_versions or 1]
            return {version: found[version] for version in newest}
