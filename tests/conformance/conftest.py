"""Compares what each source declares, and what the suite leaves out for it, with the docs.

`docs/guarantees.json` has both, and the tables of the docs are made from it. A source that learns
or loses something fails here, until `python docs/build_guarantees.py --run` has been run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

RECORDED = json.loads((Path(__file__).parents[2] / "docs" / "guarantees.json").read_text())
# A file that gets a line of JSON for each test, in place of the comparison.
RECORD = os.environ.get("DATASTREAM_RECORD_GUARANTEES", "")
PROMISE = re.compile(r"test_\d\d_")
NOT_CURRENT = "docs/guarantees.json says otherwise; run: python docs/build_guarantees.py --run"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.outcome != "failed":
        _look_at(item, report)
    return report


def _look_at(item: Any, report: pytest.TestReport) -> None:
    if item.cls is None or not PROMISE.match(item.originalname):
        return
    source = f"{item.module.__name__.rpartition('.')[2]}.{item.cls.__name__}"
    test, declared = item.originalname, _reason(report)
    features = None
    if test == "test_01_filtered":
        features = sorted(feature.name for feature in item.funcargs["store"].features)
    if RECORD:
        line = {"source": source, "test": test, "declared": declared, "features": features}
        with open(RECORD, "a") as file:
            file.write(f"{json.dumps(line)}\n")
        return
    known = RECORDED.get(source)
    if known is None:
        return
    if declared != known["declared"].get(test, "") or features not in (None, known["features"]):
        report.outcome = "failed"
        report.longrepr = f"{source}, {test}: {declared or 'kept'}, {features}; {NOT_CURRENT}"


def _reason(report: pytest.TestReport) -> str:
    """Why the suite leaves a test out; "" where the promise was kept."""
    if report.outcome != "skipped" or not isinstance(report.longrepr, tuple):
        return ""
    return str(report.longrepr[2]).removeprefix("Skipped: ")
