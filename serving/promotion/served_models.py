"""What the model server holds: the models of stable, last-good and, during a promotion, the candidate; never nothing."""

import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from evershelf import snapshot, storage
from evershelf.contracts.model import CONFIG_FILE, MODEL_NAME
from evershelf.contracts.snapshot import MODEL
from evershelf.settings import Settings
from evershelf.storage import Place
from serving.errors import ModelServerError
from serving.tf_serving.client import ModelServerAdmin, VersionStatus, config_file_content, server_config

_POLL_S = 0.1
_STALE_S = 5.0  # an end that was there before the reload may be told again until the server has looked at the disk


class LoadFailed(ModelServerError):
    """The model server gave a version up; the version is at fault, not the server."""


class ServedModels:
    """The model server and the folder it loads from, which both sides see under the same path."""

    def __init__(self, settings: Settings) -> None:
        self.base = settings.served_models.absolute() / MODEL_NAME
        self.config_file = settings.served_models.absolute() / CONFIG_FILE
        self.admin = ModelServerAdmin(f"{settings.model_server.host}:{settings.model_server.port}")

    def publish(self, stored: Place, version: int) -> None:
        """Copy a snapshot's model into its version folder, which appears whole; one that is there already stays, because a version never changes."""
        target = self.base / str(version)
        if target.exists():
            return
        with storage.new_folder(target) as folder:  # its temporary name is no number, so the model server does not see it
            snapshot.copy_part(stored, MODEL, folder)

    def hold(self, versions: Sequence[int], labels: Mapping[str, int], timeout: timedelta) -> None:
        """Make the model server hold exactly these versions, and wait until every one serves.

        Labels are moved after that, because one that points to a version which is not AVAILABLE refuses the whole request; until then those stay that may.

        Raises:
            LoadFailed: a version ended with an error.
            ModelServerError: the server is away, refuses, or does not finish in time.
        """
        before = self.admin.status()
        self.admin.reload(versions, {label: version for label, version in labels.items() if _serves(before.get(version))}, self.base)
        self._wait(versions, before, timeout)
        if labels:
            self.admin.reload(versions, labels, self.base)

    def remember(self, versions: Sequence[int]) -> None:
        """Write what a restarted model server loads. Without labels: TensorFlow Serving refuses to start with labels of versions not yet loaded."""
        storage.replace(self.config_file, config_file_content(server_config(versions, {}, self.base)))

    def drop_others(self, versions: Sequence[int]) -> None:
        """Delete the folders of versions that are no longer needed, and what an interrupted copy left."""
        if self.base.is_dir():
            for child in self.base.iterdir():
                if child.name not in {str(version) for version in versions}:
                    shutil.rmtree(child, ignore_errors=True)

    def close(self) -> None:
        self.admin.close()

    def _wait(self, versions: Sequence[int], before: Mapping[int, VersionStatus], timeout: timedelta) -> None:
        started = time.monotonic()
        while True:
            elapsed = time.monotonic() - started
            now = self.admin.status()
            waiting = {version: now.get(version) for version in versions if not _serves(now.get(version))}
            if not waiting:
                return
            for version, status in waiting.items():
                if status and status.state == "END" and (status != before.get(version) or elapsed > _STALE_S):
                    raise LoadFailed(f"The model server did not load version {version}: {status.error or 'it was unloaded'}. What it served, it still serves.")
            if elapsed > timeout.total_seconds():
                states = ", ".join(f"{version} is {status.state if status else 'unknown'}" for version, status in waiting.items())
                raise ModelServerError(f"The model server did not load in {elapsed:.0f} s: {states}. What it served, it still serves; look at its log.")
            time.sleep(_POLL_S)


def _serves(status: VersionStatus | None) -> bool:
    return status is not None and status.state == "AVAILABLE"
