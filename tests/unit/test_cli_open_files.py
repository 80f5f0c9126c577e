"""How many files a server may open."""

from __future__ import annotations

import pytest

from datastream.cli._open_files import OTHERS, allow_files

resource = pytest.importorskip("resource", reason="Windows has no such limit")
INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1_024, 500_000), (10_000 + OTHERS, 500_000)),
        ((1_024, INFINITY), (10_000 + OTHERS, INFINITY)),
        ((1_024, 4_096), (4_096, 4_096)),
        ((20_000, 500_000), None),
        ((INFINITY, INFINITY), None),
        ((256, 256), None),
    ],
)
def test_files_are_allowed_for_all_connections(monkeypatch, before, after):
    said = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: said.append(limits))
    allow_files(10_000)
    assert said == ([after] if after else [])


def test_a_system_that_refuses_more_files_is_served_with_those_that_there_are(monkeypatch):
    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_files(10_000)
