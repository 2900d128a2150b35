"""Ending processes that were started here, and nothing else."""

from contextlib import suppress

import psutil


def stop_tree(pid: int, patience: float = 3.0) -> None:
    """End a process and all its descendants, those in groups and sessions of their own too; after `patience` seconds without asking."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(family, timeout=patience)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=patience)
