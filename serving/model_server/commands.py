"""`evershelf model-server`."""

import logging
import os
import signal
import threading
from pathlib import Path

import click

from evershelf import storage
from evershelf.contracts.model import CONFIG_FILE
from evershelf.settings import load_settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: from the settings]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, 0 for a free one.  [default: from the settings]")
@click.option("--models", type=click.Path(path_type=Path), help="Folder of the served models.  [default: from the settings]")
@click.option("--model-config-file", type=click.Path(path_type=Path), help=f"What to load at the start.  [default: {CONFIG_FILE} in the models' folder]")
@click.option("--max-num-load-retries", type=click.IntRange(0), default=2, show_default=True, help="Attempts after a failed load.")
@click.option("--load-retry-interval", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds between two attempts.")
@click.option(
    "--file-system-poll-wait", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Seconds between two looks for versions."
)
def model_server(
    host: str | None,
    port: int | None,
    models: Path | None,
    model_config_file: Path | None,
    max_num_load_retries: int,
    load_retry_interval: float,
    file_system_poll_wait: float,
) -> None:
    """Start the TensorFlow Serving stand-in; it stops on SIGTERM or Ctrl-C.

    It remembers nothing but the configuration file, and listens once every configured model has a version loaded.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from serving.model_server.core import ServerCore, read_config
    from serving.model_server.services import listen

    settings = load_settings()
    file = model_config_file or (models or settings.served_models).absolute() / CONFIG_FILE
    if not model_config_file and not file.exists():
        storage.replace(file, b"model_config_list {}\n")
    config = read_config(file)
    core = ServerCore(max_num_load_retries, load_retry_interval, file_system_poll_wait)

    def interrupt() -> None:  # the first load has no time limit, but may be interrupted
        stop.wait()
        core.states.close()

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        core.reload(config)
        server, port = listen(core, f"{host or settings.model_server.host}:{settings.model_server.port if port is None else port}")
        click.echo(f"model server: listening on port {port}, {len(config.model_config_list.config)} models from {file}")
        stop.wait()
        server.stop(grace=2).wait()
    finally:
        core.close()
