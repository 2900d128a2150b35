"""`evershelf serve`: start one gateway process."""

import asyncio
import gc
import json
import logging
import os
import socket

import click
import uvicorn
import uvloop
from pydantic import ValidationError

from evershelf import storage
from evershelf.errors import InvalidSettings
from evershelf.settings import GatewaySettings, Settings, load_settings
from serving.gateway.app import App
from serving.gateway.gateway import Gateway

_BACKLOG = 1024


@click.command()
@click.option("--name", help="Names its local state and its event segments; one process per name.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
def serve(name: str | None, host: str | None, port: int | None) -> None:
    """Start a gateway. It serves what the promotion log says, from its own disk, and needs nothing else to be up."""
    given = {key: value for key, value in {"name": name, "host": host, "port": port}.items() if value is not None}
    settings = load_settings()
    try:
        gateway_settings = GatewaySettings.model_validate({**settings.gateway.model_dump(), **given})
    except ValidationError as error:
        problems = "; ".join(f"--{problem['loc'][0]} {problem['input']!r}: {problem['msg']}" for problem in error.errors())
        raise InvalidSettings(f"Wrong options: {problems}. The gateway was not started.") from None
    settings = settings.model_copy(update={"gateway": gateway_settings})
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listening = _listen(settings.gateway.host, settings.gateway.port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listening))


async def _serve(settings: Settings, listening: socket.socket) -> None:
    gateway = Gateway(settings)
    config = uvicorn.Config(
        App(gateway), http="httptools", lifespan="on", log_config=None, access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        gc.freeze()  # what start-up made lives as long as the process; the collector need not walk it
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        storage.replace(gateway.home / "address.json", json.dumps({"url": url, "pid": os.getpid()}).encode())
        click.echo(f"Gateway {gateway.settings.name} answers at {url}")
    await serving


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything else is done.

    Raises:
        InvalidSettings: it is taken, or the address is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG)
    except OSError as error:
        raise InvalidSettings(
            f"Nothing can listen on {host}:{port} ({error.strerror}). The gateway was not started; choose another --port, or 0 for a free one."
        ) from None
