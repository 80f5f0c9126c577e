"""A directory of its own for each test, and a store on it."""

from __future__ import annotations

import pytest

import datastream


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "conf"
    path.mkdir()
    return path


@pytest.fixture
def store(root):
    with datastream.open(f"file:{root}") as store:
        yield store
