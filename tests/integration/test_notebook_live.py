"""Live views in a kernel, with the test in the place of the page."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from textwrap import dedent
from typing import Any

import datastream_grpc
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from nbconvert import HTMLExporter

import datastream
from tests.integration._programs.tools import eventually
from tests.integration.test_notebooks import TIMEOUT, ThisAsyncKernel, ThisKernel, home

__all__ = ["home"]

VIEW = "application/vnd.jupyter.widget-view+json"

pytestmark = pytest.mark.timeout(240)


class Page:
    """A page in front of a kernel: runs cells that have an id, and shows their widgets."""

    def __init__(self, client: BlockingKernelClient, kernel: ThisKernel) -> None:
        self._client = client
        self._kernel = kernel
        self.messages: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        """Of the kernel's process."""
        pid: int = self._kernel.provisioner.pid  # type: ignore[union-attr]
        return pid

    def restart(self) -> None:
        """What the button does: the kernel is asked to go, and killed if it does not."""
        # Killed, it would leave nothing either: asked to, it has to go by itself.
        self._kernel.shutdown_wait_time = 2 * TIMEOUT
        self._kernel.restart_kernel(now=False)
        self._client.wait_for_ready(timeout=TIMEOUT)
        # What a kernel publishes before the page is connected anew is lost.
        eventually(self._hears, "news of the new kernel")

    def _hears(self) -> bool:
        self._client.kernel_info()
        try:
            self._client.get_iopub_msg(timeout=0.5)
        except Empty:
            return False
        return True

    def send(self, kind: str, content: dict[str, Any], **metadata: Any) -> str:
        message = self._client.session.msg(kind, content, metadata=metadata)
        self._client.shell_channel.send(message)
        name: str = message["header"]["msg_id"]
        return name

    def begin(self, source: str, cell: str) -> str:
        content = {"code": dedent(source), "silent": False, "allow_stdin": True}
        return self.send("execute_request", content, cellId=cell)

    def run(self, source: str, cell: str = "any") -> dict[str, Any]:
        """Run a cell to its end; returns what it displayed."""
        run = self.begin(source, cell)
        shown = self.until_idle(run)
        assert "ename" not in shown, "\n".join(shown["traceback"])
        return shown

    def until_idle(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run; returns what it displayed, or its error."""
        found: dict[str, Any] = {}
        while True:
            message = self.next()
            if message["parent_header"].get("msg_id") != run:
                continue
            content = message["content"]
            found |= content.get("data", {}) if "metadata" in content else {}
            if message["msg_type"] == "error":
                found |= content
            if content.get("execution_state") == "idle":
                return found

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = self._client.get_iopub_msg(timeout=TIMEOUT)
        self.messages.append(message)
        return message

    def say(self, widget: str, **content: Any) -> None:
        """What the script of a widget says."""
        data = {"method": "custom", "content": content}
        self.send("comm_msg", {"comm_id": widget, "data": data})

    def wait_for(self, widget: str, text: str) -> dict[str, Any]:
        """Wait until a widget is sent something that holds a text."""
        while True:
            message = self.next()
            content = message["content"]
            if content.get("comm_id") == widget and text in str(content):
                found: dict[str, Any] = content["data"]["content"]
                return found

    def show(self, source: str, cell: str) -> str:
        """Run a cell that displays a live view, and show that; returns its widget."""
        widget: str = self.run(source, cell)[VIEW]["model_id"]
        self.say(widget, kind="here")
        return widget


@pytest.fixture
def page(home: Path, tmp_path: Path) -> Iterator[Page]:
    manager = ThisKernel()
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        yield Page(client, manager)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


COUNT = """
    import gc, threading, ipywidgets
    from datastream.notebook._live import Display
    def live():
        gc.collect()
        return (
            sum(t.name == "datastream live" for t in threading.enumerate()),
            sum(isinstance(it, Display) and it.is_running for it in gc.get_objects()),
            # One, and another one for its layout.
            len(ipywidgets.Widget.widgets) / 2,
        )
"""


def test_a_cell_run_again_leaves_no_thread_subscription_and_widget(page: Page) -> None:
    page.run('import datastream; store = datastream.open("memory:"); store["a"] = "first"')
    page.run(COUNT)
    for _ in range(5):
        widget = page.show("store.live()", "one")
        page.wait_for(widget, "first")
    other = page.show("store.live()", "two")
    page.wait_for(other, "first")
    page.run("""
        import time
        until = time.monotonic() + 20
        while live() != (2, 2, 2) and time.monotonic() < until:
            threading.Event().wait(0.05)
        assert live() == (2, 2, 2), live()
    """)
    page.run('store["a"] = "second"')
    for shown in (widget, other):
        page.say(shown, kind="here")
        page.wait_for(shown, "second")
    # The last run of a cell counts, also if it shows nothing any more.
    page.run("None", "one")
    page.say(other, kind="gone")
    page.wait_for(other, "who")
    page.run("""
        until = time.monotonic() + 20
        while live()[:2] != (0, 0) and time.monotonic() < until:
            threading.Event().wait(0.05)
        assert live() == (0, 0, 1), live()
        assert not store._core._publisher.routes
    """)


@pytest.mark.chaos
def test_a_kernel_restarted_under_live_views_leaves_nothing_and_begins_anew(
    page: Page, tmp_path: Path
) -> None:
    with datastream.open("memory:") as store, datastream_grpc.serve(store, "127.0.0.1:0") as server:
        store.put_many({"fx/USD": 1.08, "fx/GBP": 0.85})
        opening = f"import datastream; store = datastream.open('grpc://{server.address}')"
        views = {
            "table": "store.live('fx/')",
            "plot": "store.live_plot('fx/')",
            "view": "view = store.view('fx/'); view.live()",
        }
        for _ in range(2):
            page.run(opening)
            for cell, view in views.items():
                page.wait_for(page.show(view, cell), "fx/USD")
            left = page.pid
            assert store._core._publisher.routes
            page.restart()
            assert not psutil.pid_exists(left)
            eventually(lambda: not store._core._publisher.routes, "the end of all subscriptions")
            page.run("import ipywidgets; assert not ipywidgets.Widget.widgets")


@pytest.mark.chaos
def test_a_flood_of_changes_leaves_the_kernel_free_and_prints_nothing(page: Page) -> None:
    page.run("""
        import datastream, threading, time
        store, stop, count = datastream.open("memory:"), threading.Event(), 0
        def write():
            global count
            while not stop.is_set():
                count += 1
                store[f"k/{count % 100}"] = count
        threading.Thread(target=write).start()
    """)
    widget = page.show('store.live("k/")', "flood")
    page.wait_for(widget, "show")
    page.messages.clear()
    cells = [page.run("begin = count; time.sleep(0.1); print(count - begin)") for _ in range(20)]
    assert len(cells) == 20
    page.run("stop.set()")
    updates = [m for m in page.messages if m["content"].get("comm_id") == widget]
    # Twenty cells of a tenth of a second each, and as long again for what is between them.
    assert len(updates) >= 3
    printed = [m["content"]["text"] for m in page.messages if m["msg_type"] == "stream"]
    assert len("".join(printed).split()) == 20, "only the cells themselves print"
    first, last = (m["header"]["date"] for m in (updates[0], updates[-1]))
    assert len(updates) <= (last - first).total_seconds() / 0.1 + 2


BLOCKING = {
    "record": "store.record(seconds=60)",
    "flush": "store.flush()",
    "first": "datastream.open('memory:').watch('none').first().run()",
    "ready": "away.view().ready()",
    "view": "away.view('a', wait=60)['a']",
    "bind": "away.bind(dict, 'a/', wait=60).current",
    "diff": "list(datastream.diff('grpc://{hole}?timeout=60', store))",
    "grpc": "datastream.open('grpc://{hole}?timeout=60')['a']",
    "put": "away.put('a', 1, wait=60)",
    "postgres": "datastream.open('postgresql://{hole}/x?table=t&connect_timeout=60')['a']",
    "s3": (
        "datastream.open('s3://b/p?endpoint_url=http://{hole}&key=k&secret=s', "
        "config_kwargs={{'connect_timeout': 60, 'read_timeout': 60}})['a']"
    ),
    "nats": "datastream.open('nats://{hole}/b?timeout=60')['a']",
    "git": "datastream.open('git+http://{hole}/r.git?timeout=60')['a']",
    "http": "datastream.open('http://{hole}/x')['a']",
}
"""None of them ends by itself in the time that a busy machine may take to interrupt it."""


@pytest.fixture
def hole() -> Iterator[str]:
    """A server that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.chaos
def test_an_interrupt_ends_a_blocking_call_at_once(page: Page, hole: str) -> None:
    page.run("""
        import datastream, threading
        # Libraries that are being loaded may keep an interrupt to themselves.
        from datastream.sources import filesystem, git, nats, postgres, s3
        store = datastream.open("memory:")
        held = threading.Event()
        store.watch("a").subscribe(lambda entry: held.wait(60))
        store["a"] = 1
        away = datastream.open("grpc://127.0.0.1:9")
    """)
    for name, call in BLOCKING.items():
        run = page.begin(f'print("begins {name}"); {call.format(hole=hole)}', name)
        while f"begins {name}" not in str(page.next()["content"]):
            pass
        # As `interrupt_kernel` does, which would make an event loop in this thread.
        timer = threading.Timer(0.5, os.kill, (page.pid, signal.SIGINT))
        timer.start()
        error = page.until_idle(run)
        timer.join()
        assert error.get("ename") == "KeyboardInterrupt", (name, error)
    page.run("held.set(); store.flush(); store.close()")


@pytest.mark.chaos
def test_the_magic_opens_a_store_and_shows_it(page: Page) -> None:
    page.run("%load_ext datastream.notebook")
    widget = page.show("%datastream sqlite:a.db", "magic")
    page.wait_for(widget, "READY")
    page.run('store["a"] = "seen"; before = store')
    page.wait_for(widget, "seen")
    page.run("%datastream memory: other\nassert other.name == 'memory:'\nstore['b'] = 1")
    page.run("%datastream memory:", "magic")
    page.run("assert before.status.current.state == 'CLOSED'; other['x'] = 1")
    error = page.until_idle(page.begin("%datastream memory: 1x", "bad"))
    assert "cannot be the name of a variable" in error["evalue"]


LIVE_CELLS = [
    "import datastream; store = datastream.open('memory:'); store['a'] = 'a <value>'",
    "store.live()",
    "store.view().live()",
    "store.live_plot()",
]


@pytest.mark.chaos
def test_nbclient_and_exports_get_a_picture(home: Path, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(source) for source in LIVE_CELLS]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_manager_class=ThisAsyncKernel,
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    for cell in notebook.cells[1:]:
        (output,) = cell.outputs
        assert sorted(output.data) == ["text/html", "text/plain"]
        assert "a &lt;value&gt;" in output.data["text/html"]
    assert "widgets" not in notebook.metadata
    # What a page saved has the widget, too, which is no longer there.
    output.data[VIEW] = {"model_id": "gone", "version_major": 2, "version_minor": 0}
    html, _ = HTMLExporter().from_notebook_node(notebook)
    assert html.count("a &lt;value&gt;") >= 3
