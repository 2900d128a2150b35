"""The OpenAPI document, made from the same types that decode requests and encode answers."""

from importlib.metadata import version
from typing import Any

import msgspec

from serving.gateway.answers import (
    MAX_EVENTS,
    MAX_ITEM_ID_BYTES,
    MAX_K,
    MAX_QUERY_BYTES,
    MAX_RECENT,
    MAX_USER_ID_BYTES,
    Accepted,
    Answer,
    Event,
    HoldWish,
    Problem,
    Status,
    Why,
)

_STRING = {"type": "string"}
_K = ("k", False, {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 10}, "how many items")
_USER = ("user_id", False, _STRING, f"the shop's own id of the shopper, at most {MAX_USER_ID_BYTES} bytes; hashed at the door")
_SESSION = ("session_id", False, _STRING, "names the visit of a guest, who then stays with one snapshot")
_ADMIN: list[dict[str, list[str]]] = [{"admin": []}]

Parameter = tuple[str, bool, dict[str, Any], str]


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a gateway."""
    types = (Answer, Event, Accepted, Status, Why, HoldWish, Problem)
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    query: Parameter = (
        "q",
        True,
        _STRING,
        f"what is searched for, 1 to {MAX_QUERY_BYTES} bytes; a price in it ('under 30', '20-40 €') is a filter, see `understood`",
    )
    item: Parameter = ("item_id", True, _STRING, f"the item, at most {MAX_ITEM_ID_BYTES} bytes")
    category: Parameter = ("category", False, _STRING, "only items of this category path")
    recent: Parameter = ("recent", False, _STRING, f"item ids just seen, newest last, joined by commas, at most {MAX_RECENT}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Evershelf gateway", "version": version("evershelf"), "description": "Search and recommendations that never go dark."},
        "paths": {
            "/v1/search": _get("Items that match a query", Answer, query, _USER, _SESSION, _K),
            "/v1/recommend": _get("Items for a shopper", Answer, ("user_id", True, *_USER[2:]), category, recent, _SESSION, _K),
            "/v1/similar": _get("Items like an item", Answer, item, _USER, _SESSION, _K),
            "/v1/events": _post(
                f"Report events; acknowledged when they are on disk; at most {MAX_EVENTS}",
                Accepted,
                {"type": "array", "items": _ref(Event), "maxItems": MAX_EVENTS},
            ),
            "/v1/status": _get("What this gateway serves, and what it counted", Status),
            "/v1/why/{request_id}": _get(
                "Why a recent answer of this gateway is what it is", Why, ("request_id", True, _STRING, "as the answer named it"), place="path", secured=True
            ),
            "/healthz": _get("Whether the process lives", None),
            "/readyz": _get("Whether it can answer", None),
            "/openapi.json": _get("This document", None),
            "/admin/follow": _post("Read the promotion log now", Status, None, secured=True),
            "/admin/hold": _post("Break-glass: serve one loaded snapshot until the log decides again", Status, _ref(HoldWish), secured=True),
            "/admin/forget": _post(
                "Forget shoppers: their tombstones, as `evershelf forget` makes them",
                Status,
                {"type": "array", "items": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
                secured=True,
            ),
        },
        "components": {"schemas": components, "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}}},
    }


def _ref(kind: type) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(answer: type | None) -> dict[str, Any]:
    content = _content(_ref(answer) if answer else {"type": "object"})
    refused = {"description": "Refused; the body says what is wrong", "content": _content(_ref(Problem))}
    unable = {
        "description": "Above capacity, or nothing to serve yet; see Retry-After",
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
        "content": _content(_ref(Problem)),
    }
    return {"200": {"description": "Done", "content": content}, "4XX": refused, "503": unable}


def _get(summary: str, answer: type | None, *parameters: Parameter, place: str = "query", secured: bool = False) -> dict[str, Any]:
    described = [{"name": name, "in": place, "required": required, "schema": schema, "description": text} for name, required, schema, text in parameters]
    operation: dict[str, Any] = {"summary": summary, "parameters": described, "responses": _responses(answer)}
    if secured:
        operation["security"] = _ADMIN
    return {"get": operation}


def _post(summary: str, answer: type, body: dict[str, Any] | None, *, secured: bool = False) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "responses": _responses(answer)}
    if body:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    if secured:
        operation["security"] = _ADMIN
    return {"post": operation}
