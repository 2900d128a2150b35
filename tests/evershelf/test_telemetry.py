"""Figures may be lost; nothing that is measured may be."""

import socket
from pathlib import Path
from typing import Any

import pytest

from evershelf import telemetry
from evershelf.telemetry import metrics


def test_a_collector_whose_name_cannot_be_resolved_costs_its_figures_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(host: str, *_: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", unknown)
        metrics().incr("a")
        metrics().gauge("b", 1.0)
        metrics().timing("c", 1.0)
        with metrics().pipeline() as pipeline:
            pipeline.incr("d")
    assert len(asked) == 1  # looked for rarely: a name server may take seconds


def test_figures_are_sent_once_the_name_resolves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_RETRY", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(5)
        monkeypatch.setenv("EVERSHELF_TELEMETRY__STATSD_PORT", str(collector.getsockname()[1]))
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", lambda *_: (_ for _ in ()).throw(socket.gaierror()))
            metrics().incr("lost")
        metrics().incr("kept")
        assert collector.recv(512) == b"evershelf.kept:1|c"
        with metrics().pipeline() as pipeline:
            pipeline.incr("one")
            pipeline.incr("two")
        assert collector.recv(512) == b"evershelf.one:1|c\nevershelf.two:1|c"
