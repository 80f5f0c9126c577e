"""A directory of its own for each test, and a store on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import datastream


@pytest.fixture
def root():
    # Not below pytest's directory: each run of pytest by the same user closes it to all others,
    # also while another run has let them in.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "conf")
        path.mkdir()
        yield path


@pytest.fixture
def store(root):
    with datastream.open(f"file:{root}") as store:
        yield store
