"""Talk to every gateway at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from evershelf.pseudonyms import shared_secret
from evershelf.settings import load_settings
from serving.gateway.answers import Problem, Status, Why

Answer = TypeVar("Answer", Status, Why)
Reached = dict[str, Status | str]  # url -> its status, or why there is none


class Gateways:
    """All gateways of an installation.

    Args:
        urls: where they listen; those of the settings by default.
        timeout: seconds for one call.
    """

    def __init__(self, urls: Sequence[str] | None = None, timeout: float = 5.0) -> None:
        settings = load_settings()
        self.urls = tuple(urls if urls is not None else settings.gateway_urls)
        self._client = httpx.Client(timeout=timeout, trust_env=False)  # a proxy has no business between two of our processes
        self._token = settings.gateway.admin_token.get_secret_value() or shared_secret("admin.token")

    def status(self) -> Reached:
        return self._all(lambda url: self._client.get(f"{url}/v1/status"), Status)

    def why(self, request_id: str) -> dict[str, Why | str]:
        """Ask every gateway to explain an answer; url -> what it says, or why it says nothing."""
        return self._all(lambda url: self._client.get(f"{url}/v1/why/{quote(request_id, safe='')}", headers=self._authorized()), Why)

    def follow(self) -> Reached:
        """Tell every gateway to read the promotion log now."""
        return self._all(lambda url: self._client.post(f"{url}/admin/follow", headers=self._authorized()), Status)

    def hold(self, snapshot_id: str, epoch: int, why: str) -> Reached:
        """Break-glass: make every gateway serve a loaded snapshot until the log knows more than `epoch` decisions."""
        wish = {"snapshot_id": snapshot_id, "epoch": epoch, "why": why}
        return self._all(lambda url: self._client.post(f"{url}/admin/hold", headers=self._authorized(), json=wish), Status)

    def forget(self, tombstones: Sequence[str]) -> Reached:
        """Make every gateway go by more tombstones."""
        return self._all(lambda url: self._client.post(f"{url}/admin/forget", headers=self._authorized(), json=tombstones), Status)

    def close(self) -> None:
        self._client.close()

    def _authorized(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def _all(self, call: Callable[[str], httpx.Response], kind: type[Answer]) -> dict[str, Answer | str]:
        if not self.urls:
            return {}
        with ThreadPoolExecutor(len(self.urls), thread_name_prefix="gateway") as pool:
            return dict(zip(self.urls, pool.map(lambda url: _said(call, url, kind), self.urls), strict=True))


def _said(call: Callable[[str], httpx.Response], url: str, kind: type[Answer]) -> Answer | str:
    try:
        response = call(url)
        response.raise_for_status()
        return msgspec.json.decode(response.content, type=kind)
    except httpx.HTTPStatusError as error:
        return f"it answered {error.response.status_code}: {_detail(error.response)}"
    except (httpx.HTTPError, OSError) as error:
        return f"it cannot be reached ({str(error) or type(error).__name__})"
    except msgspec.MsgspecError as error:
        return f"its {kind.__name__.casefold()} cannot be read ({error})"


def _detail(response: httpx.Response) -> str:
    try:
        return msgspec.json.decode(response.content, type=Problem).detail
    except msgspec.MsgspecError:
        return response.text[:200]


def answering(reached: Reached) -> list[Status]:
    return [status for status in reached.values() if not isinstance(status, str)]


def missing(reached: Reached) -> dict[str, str]:
    """Return url -> why, for the gateways that did not answer."""
    return {url: status for url, status in reached.items() if isinstance(status, str)}
