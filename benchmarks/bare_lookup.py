"""The peer of `gateway_snapshot`: `python -m benchmarks.bare_lookup PORT STORE SIZE` answers every request with one LMDB lookup and SIZE prepared bytes."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import lmdb
import uvicorn

PORT, STORE, SIZE = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
READ = lmdb.open(STORE, subdir=False, readonly=True, lock=False).begin()
BODY = b"x" * SIZE
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % SIZE)]


async def app(
    scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[MutableMapping[str, Any]]], send: Callable[[MutableMapping[str, Any]], Awaitable[None]]
) -> None:
    READ.get(b"u:" + scope["query_string"])
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="warning")
