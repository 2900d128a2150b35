"""A snapshot with vectors finds what no word of the query names; without them, or when they fail, words answer alone."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from evershelf import pseudonyms, snapshot
from evershelf.contracts.snapshot import VECTORS
from evershelf.hybrid import WEIGHTS
from evershelf.text_encoder import TextEncoder
from serving.build_snapshot import build_snapshot
from serving.stores.snapshot_store import SnapshotStore
from tests.serving import tiny
from tests.serving.conftest import GatewayProcess, Shop

NO_WORD_OF_IT = "coffee cups"


@pytest.fixture
def by_meaning(shop: Shop) -> str:
    """A snapshot with vectors, beside the two without."""
    made = tiny.Tiny(shop.home, f"{tiny.DATA_AS_OF}-11111111", f"{tiny.DATA_AS_OF}-44444444")
    tiny.add_text_encoder(made)
    tiny.make_candidates(shop.home, made.candidates_id, made.model_id, shift=2)
    return build_snapshot(made.candidates_id)


def _titles(store: SnapshotStore, text: str) -> list[str]:
    numbers, scores = store.search(text, 200)
    assert np.all(np.diff(scores) <= 0) and (scores > 0).all() and (len(scores) == 0 or scores[0] == 1)
    return [store.item(int(number)).title for number in numbers]


def test_meaning_finds_what_words_do_not(shop: Shop, by_meaning: str) -> None:
    assert _titles(SnapshotStore(shop.snapshots / shop.first), NO_WORD_OF_IT) == []
    store = SnapshotStore(shop.snapshots / by_meaning)
    assert (mugs := _titles(store, NO_WORD_OF_IT)) and all(" mug " in title for title in mugs)
    assert [" red " in f" {title.lower()}" and "candle" in title for title in _titles(store, "red candle")[:2]] == [True, True]
    assert _titles(store, "qwertz") == [] and _titles(store, "?!") == [] and _titles(store, "") == []


def test_texts_that_a_snapshot_knows_are_not_embedded_again(shop: Shop, by_meaning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    encode: Callable[..., object] = TextEncoder.vectors

    def watched(self: TextEncoder, texts: list[str], *report: object) -> object:
        embedded.extend(texts)
        return encode(self, texts, *report)

    monkeypatch.setattr(TextEncoder, "vectors", watched)
    tiny.make_candidates(shop.home, f"{tiny.DATA_AS_OF}-55555555", f"{tiny.DATA_AS_OF}-11111111", shift=4)
    again = build_snapshot(f"{tiny.DATA_AS_OF}-55555555")
    assert again != by_meaning and embedded == []
    assert [path.read_bytes() for path in sorted((shop.snapshots / again / VECTORS).iterdir())] == [
        path.read_bytes() for path in sorted((shop.snapshots / by_meaning / VECTORS).iterdir())
    ]
    snapshot.verify(shop.snapshots / again)


def test_when_meaning_fails_words_answer_alone(shop: Shop, by_meaning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(shop.snapshots / by_meaning)

    def broken(self: TextEncoder, text: str) -> None:
        raise RuntimeError("the interpreter failed")

    monkeypatch.setattr(TextEncoder, "vector", broken)
    assert _titles_of_words(store, "mug") == 8
    assert _titles_of_words(store, NO_WORD_OF_IT) == 0


def test_a_snapshot_whose_vectors_cannot_be_opened_answers_by_words(shop: Shop, by_meaning: str) -> None:
    (shop.snapshots / by_meaning / VECTORS / "items.usearch").write_bytes(b"no")
    store = SnapshotStore(shop.snapshots / by_meaning)
    assert "cannot be opened" in store.meaning_problem
    assert _titles_of_words(store, "mug") == 8


def test_damaged_vectors_are_not_handed_on(shop: Shop, by_meaning: str) -> None:
    (shop.snapshots / by_meaning / VECTORS / "texts.npy").write_bytes(b"no")
    tiny.make_candidates(shop.home, f"{tiny.DATA_AS_OF}-77777777", f"{tiny.DATA_AS_OF}-11111111", shift=6)
    again = build_snapshot(f"{tiny.DATA_AS_OF}-77777777")
    snapshot.verify(shop.snapshots / again)
    assert SnapshotStore(shop.snapshots / again).meaning_problem == ""


def _titles_of_words(store: SnapshotStore, text: str) -> int:
    return sum(" mug " in store.item(int(number)).title for number in store.search(text, 200)[0])


def test_where_only_words_count_a_snapshot_carries_no_vectors(shop: Shop, by_meaning: str) -> None:
    (shop.home / "models" / f"{tiny.DATA_AS_OF}-11111111" / "text_encoder" / WEIGHTS).write_text(json.dumps([1, 0, 0, 0]))
    tiny.make_candidates(shop.home, f"{tiny.DATA_AS_OF}-66666666", f"{tiny.DATA_AS_OF}-11111111", shift=5)
    assert not (shop.snapshots / build_snapshot(f"{tiny.DATA_AS_OF}-66666666") / VECTORS).exists()


def test_a_gateway_answers_by_meaning_and_says_why(shop: Shop, by_meaning: str, gateway: Callable[..., GatewayProcess]) -> None:
    shop.promote(by_meaning)
    running = gateway(GATEWAY__RUNGS='["local_model", "snapshot", "popular"]')
    answer = running.get("/v1/search", q=NO_WORD_OF_IT, user_id=tiny.RAW_USERS[1], k=5)
    assert answer["matched"] and answer["served_by"] == "local_model"
    assert " mug " in answer["items"][0]["title"]
    token = pseudonyms.shared_secret("admin.token")
    told = running.client.get(f"/v1/why/{answer['request_id']}", headers={"Authorization": f"Bearer {token}"}).json()
    assert f"is about what you searched for: '{NO_WORD_OF_IT}'" in told["items"][0]["reasons"]
