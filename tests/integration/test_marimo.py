"""The live table in marimo, a front end that is not Jupyter's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

import datastream
from tests.integration._programs.tools import eventually
from tests.servers.lab import HINT, browser, page

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

STARTING = 120.0
"""Seconds in which marimo listens."""

# Of what is left when the visitor is gone, its process tells: nobody else can see it.
APP = """
    import marimo

    app = marimo.App()

    @app.cell
    def _():
        import datastream
        import telling

        store = datastream.open("sqlite:live.db")
        telling.start()
        return (store,)

    @app.cell
    def _(store):
        store.live()

    if __name__ == "__main__":
        app.run()
"""
TELLING = """
    import pathlib, threading

    def run():
        while True:
            names = [thread.name for thread in threading.enumerate()]
            pathlib.Path("told").write_text(str(names.count("datastream live")))
            threading.Event().wait(0.1)

    def start():
        threading.Thread(target=run, daemon=True).start()
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run the app for visitors, who are forgotten a second after they left; its address."""
    (folder / "app.py").write_text(dedent(APP))
    (folder / "telling.py").write_text(dedent(TELLING))
    log = folder / "log"
    options = ["--headless", "--host", "127.0.0.1", "--port", "0", "--session-ttl", "1"]
    command = [sys.executable, "-m", "marimo", "run", "app.py", *options]
    environment = os.environ | {"HOME": str(folder), "NO_COLOR": "1", "PYTHONPATH": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(STARTING)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + STARTING
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://\S+", log.read_text()):
            return found.group()
        time.sleep(0.1)
    raise AssertionError(f"marimo did not start:\n{log.read_text()[-4000:]}")


def test_a_live_table_follows_in_marimo_until_the_page_is_closed(tmp_path: Path) -> None:
    program = browser()
    if program is None:
        pytest.skip(HINT)
    pytest.importorskip("playwright", reason=HINT)
    pytest.importorskip("marimo", reason="needs marimo: pip install marimo")
    with (
        datastream.open(f"sqlite:{tmp_path / 'live.db'}") as outside,
        served(tmp_path) as address,
    ):
        outside.put_many({"fx/USD": 1.08, "db/password": "hunter2", "motd": "<script>x</script>"})
        with page(program) as (opened, errors):
            opened.goto(address)
            value = opened.locator("tr[data-key='fx/USD'] .ds-value")
            value.filter(has_text="1.08").wait_for()
            outside["fx/USD"] = 1.25
            value.filter(has_text="1.25").wait_for()
            opened.locator(".ds-filter").fill("script")
            opened.locator(".ds-where").filter(has_text="1–1 of 1 (3 in all)").wait_for()
            assert "hunter2" not in opened.content()
            assert errors == []
            told = tmp_path / "told"
            eventually(lambda: told.read_text() == "1", "a thread that follows", 60)
        eventually(lambda: told.read_text() == "0", "the end of its thread", 60)
