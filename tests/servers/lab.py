"""A JupyterLab of one's own, and a headless browser in front of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

TOKEN = "for-the-tests-alone"
STARTING = 120.0
"""Seconds in which JupyterLab listens, and ends."""
TIMEOUT = 120_000
"""Milliseconds in which a page shows what is waited for."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HINT = "needs a browser: apt-get install chromium, and pip install playwright"

SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}


def browser() -> str | None:
    """The program of a browser, if there is one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Lab:
    """A running JupyterLab.

    Args:
        root: the folder of its notebooks.
        url: of its first page, with the token.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self._url = url

    def address(self, notebook: str) -> str:
        return f"{self._url}lab/tree/{notebook}?token={TOKEN}"


@contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """Run JupyterLab in `root`, with nobody's settings."""
    with tempfile.TemporaryDirectory(prefix="ds-lab-", ignore_cleanup_errors=True) as home:
        environment = _environment(Path(home))
        log = Path(home, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *_options()],
                cwd=root,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Lab(root, _url(process, Path(environment["JUPYTER_RUNTIME_DIR"]), log))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Asked to, it shuts its kernels down first. On a busy machine that may take minutes.
    process.terminate()
    try:
        process.wait(STARTING)
    except subprocess.TimeoutExpired:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(STARTING)


@contextmanager
def page(program: str) -> Iterator[tuple[Any, list[str]]]:
    """A page of a headless browser, and what went wrong on it so far."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            opened = running.new_page(viewport={"width": 1200, "height": 1000})
            errors: list[str] = []
            opened.on("pageerror", lambda error: errors.append(f"{error}"))
            opened.on(
                "console",
                lambda said: errors.append(said.text) if said.type == "error" else None,
            )
            opened.set_default_timeout(TIMEOUT)
            yield opened, errors
        finally:
            running.close()


def _environment(home: Path) -> dict[str, str]:
    environment = dict(os.environ)
    for name in (
        "HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "MPLCONFIGDIR",
    ):  # fmt: skip
        environment[name] = str(home / name.lower())
        Path(environment[name]).mkdir()
    for plugin, settings in SETTINGS.items():
        package, name = plugin.split(":")
        file = Path(environment["JUPYTERLAB_SETTINGS_DIR"], package, f"{name}.jupyterlab-settings")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    return environment


def _options() -> list[str]:
    return [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.extension_manager=readonly",
        "--ServerApp.terminals_enabled=False",
    ]


def _url(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    """Where it listens, as it writes down once it does."""
    until = time.monotonic() + STARTING
    while time.monotonic() < until and process.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            if text := file.read_text():
                return str(json.loads(text)["url"])
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-4000:]}")
