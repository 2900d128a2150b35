"""Settings are refused with their name, their value and what is allowed."""

from pathlib import Path

import pytest

from evershelf.errors import InvalidSettings
from evershelf.settings import load_settings


def test_environment_wins_over_the_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.toml").write_text('[gateway]\nport = 1234\nname = "from-file"\n')
    monkeypatch.setenv("EVERSHELF_CONFIG", str(tmp_path / "shop.toml"))
    monkeypatch.setenv("EVERSHELF_GATEWAY__PORT", "4321")
    load_settings.cache_clear()
    assert (load_settings().gateway.port, load_settings().gateway.name) == (4321, "from-file")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("EVERSHELF_GATEWAY__PORT", "99999", ["gateway.port", "'99999'", "65535"]),
        ("EVERSHELF_GATEWAY__PROT", "1", ["gateway.prot", "not permitted"]),
        ("EVERSHELF_GATWAY__PORT", "1", ["EVERSHELF_GATWAY__PORT", "EVERSHELF_GATEWAY"]),
        ("EVERSHELF_SHOP__TIMEZONE", "Mars/Base", ["shop.timezone", "'Mars/Base'", "IANA"]),
        ("EVERSHELF_LAKE_URL", "ftp://x", ["lake_url", "'ftp://x'", "file:///"]),
        ("EVERSHELF_PROMOTION__SHARES", "[0.1, 2]", ["promotion.shares.1", "2", "less than 1"]),
        ("EVERSHELF_PROMOTION__SHARES", "[]", ["promotion.shares", "at least 1"]),
        ("EVERSHELF_PROMOTION__SHARES", "[0.5, 0.1]", ["promotion.shares", "0.5", "must grow from stage to stage"]),
        ("EVERSHELF_TRAINING__WIDTH", "15", ["training", "width, 15, must be a multiple of heads, 2"]),
        ("EVERSHELF_TRAINING__HOSTS", '["node-1"]', ["training.hosts.0", "'node-1'", ":[1-9]"]),
        ("EVERSHELF_TRAINING__HOSTS", '["node-1:2", "node-2:2"]', ["training", "ranks, 2, must be 4"]),
        ("EVERSHELF_TRAINING__HOSTS", '["node-1:1", "node-1:1"]', ["training", "hosts names one twice"]),
        ("EVERSHELF_TRAINING__HOSTS", '["node-1:1", "node-2:1"]', ["training", "hosts need interface too"]),
        ("EVERSHELF_TRAINING__RANKERS", '["LiteRT int8"]', ["training.rankers", "must name a float32 form"]),
        ("EVERSHELF_REDIS__HOST", "redis.shop", ["redis", "set sentinels too", "[]"]),
        ("EVERSHELF_CONFIG", "/no/such/file.toml", ["EVERSHELF_CONFIG", "/no/such/file.toml"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: list[str]
) -> None:
    monkeypatch.setenv(variable, value)
    load_settings.cache_clear()
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    assert all(words in str(refused.value) for words in said), str(refused.value)


def test_a_broken_file_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.toml").write_text("[gateway\n")
    monkeypatch.setenv("EVERSHELF_CONFIG", str(tmp_path / "shop.toml"))
    load_settings.cache_clear()
    with pytest.raises(InvalidSettings, match=r"shop\.toml is not valid TOML"):
        load_settings()
