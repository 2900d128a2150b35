"""The HTTP side of a gateway: plain ASGI, because a framework's routing costs more than an answer does."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from serving.errors import NoSourceAnswered
from serving.gateway import requests
from serving.gateway.answers import MAX_BODY_BYTES, Problem, encode
from serving.gateway.gateway import Gateway
from serving.gateway.openapi import document
from serving.gateway.requests import Refused

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Reader = Callable[[dict[str, str]], Awaitable[msgspec.Struct]]
Writer = Callable[[bytes], Awaitable[msgspec.Struct]]

_BODY_SECONDS = 10.0  # a client that sends its body slower than this is not waited for
_WHY = "/v1/why/"
_JSON = (b"content-type", b"application/json")


class App:
    """The ASGI application of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._in_flight = self._receiving = 0
        self._openapi = msgspec.json.encode(document())
        self._readers: dict[str, Reader] = {
            "/v1/search": gateway.search,
            "/v1/recommend": gateway.recommend,
            "/v1/similar": gateway.similar,
        }
        self._writers: dict[str, Writer] = {
            "/v1/events": gateway.accept,
            "/admin/follow": lambda body: gateway.follow(),
            "/admin/hold": gateway.hold,
            "/admin/forget": gateway.forget,
        }
        self._plain: dict[str, Callable[[], tuple[int, bytes]]] = {
            "/v1/status": lambda: (200, encode(gateway.status())),
            "/healthz": lambda: (200, b'{"alive":true}'),
            "/readyz": self._ready,
            "/openapi.json": lambda: (200, self._openapi),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            status, body, headers = await self._respond(scope, receive)
            if status >= 400:
                self._gateway.counters.refused(status)
            headers = [_JSON, (b"content-length", b"%d" % len(body)), *headers]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._gateway.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._gateway.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, scope: Message, receive: Receive) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        path, method = scope["path"], scope["method"]
        if path in self._plain:
            if method not in ("GET", "HEAD"):
                return _wrong_method(path, method, "GET, HEAD")
            return *self._plain[path](), []
        explains = path.startswith(_WHY)
        reads = explains or path in self._readers
        if not reads and path not in self._writers:
            return 404, _problem("not_found", f"There is nothing at {path[:200]}; /openapi.json lists what there is."), []
        if method not in (("GET", "HEAD") if reads else ("POST",)):
            return _wrong_method(path, method, "GET, HEAD" if reads else "POST")
        administers = explains or path.startswith("/admin/")  # never shed: it may be what ends the overload
        most = self._gateway.settings.max_in_flight
        try:
            if administers:
                self._check_token(scope)  # for `why` too: it shows what a shopper did
            elif not reads and self._receiving >= most:
                self._gateway.counters.events_shed += 1
                return _overloaded()
            body = b"" if reads else await self._received(receive)
            if not administers and self._in_flight >= most:
                self._gateway.counters.shed += reads
                self._gateway.counters.events_shed += not reads
                return _overloaded()
            self._in_flight += 1
            try:
                if explains:
                    return 200, encode(await self._gateway.why(path.removeprefix(_WHY))), []
                if reads:
                    return 200, encode(await self._readers[path](requests.parameters(scope["query_string"]))), []
                return 200, encode(await self._writers[path](body)), []
            finally:
                self._in_flight -= 1
        except Refused as refused:
            return refused.status, _problem(refused.error, refused.detail), []
        except NoSourceAnswered as error:
            return 503, _problem("no_snapshot", str(error)), [(b"retry-after", b"5")]
        except OSError as error:
            logger.error("%s failed: %s", path, error)
            return (
                503,
                _problem("not_stored", f"The disk did not take it ({error.strerror}); nothing was acknowledged. Send it again."),
                [(b"retry-after", b"5")],
            )
        except Exception:
            logger.exception("%s %s failed", method, path)
            return 500, _problem("internal", "This is a mistake in the gateway; its log has the trace."), []

    async def _received(self, receive: Receive) -> bytes:
        """Read a body while counting apart from requests in flight: a client that sends nothing keeps no reader out."""
        self._receiving += 1
        try:
            return await _body(receive)
        finally:
            self._receiving -= 1

    def _ready(self) -> tuple[int, bytes]:
        if self._gateway.ready:
            return 200, b'{"ready":true}'
        return 503, _problem("no_snapshot", "No snapshot is loaded. Build one with `evershelf run build_snapshot`, then `evershelf promote` it.")

    def _check_token(self, scope: Message) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._gateway.admin_token.encode()):
            raise Refused(401, "unauthorized", "This needs the header `Authorization: Bearer <admin token>`.")


async def _body(receive: Receive) -> bytes:
    """Read a request's body.

    Raises:
        Refused: it is too large, too slow, or its client went away.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "incomplete", "The connection ended before the body did.")
                part = message.get("body", b"")
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise Refused(413, "body_too_large", f"The body has more than {MAX_BODY_BYTES} bytes. Nothing was taken; send fewer events at once.")
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(408, "body_too_slow", f"The body did not arrive within {_BODY_SECONDS:.0f} s.") from None


def _problem(error: str, detail: str) -> bytes:
    return encode(Problem(error, detail))


def _overloaded() -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    return 503, _problem("overloaded", "This gateway answers as many requests as it can; try again, or another one."), [(b"retry-after", b"1")]


def _wrong_method(path: str, method: str, allowed: str) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    return 405, _problem("method_not_allowed", f"{path} takes {allowed}, not {method[:20]}."), [(b"allow", allowed.encode())]
