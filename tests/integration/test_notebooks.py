"""Stores in Jupyter: the notebooks run, and so does all that a notebook user relies on."""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any
from uuid import uuid4

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from traitlets import default

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIMEOUT = 60
# They start servers, or run a test suite of their own.
LONG = {"02_every_source", "03_reactive_recipes", "05_time_travel", "06_your_own_source"}
LONG_TIMEOUT = 120

pytestmark = pytest.mark.timeout(180)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_run = pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.chaos, pytest.mark.timeout(2 * LONG_TIMEOUT)])
        if path.stem in LONG
        else path
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)


class ThisKernel(KernelManager):
    """The interpreter of the test, whatever kernels are installed; no port to race for."""

    @default("kernel_spec_manager")
    def _no_installed_kernels(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    @default("transport")
    def _unix_sockets(self) -> str:
        return "ipc"

    @default("ip")
    def _path_of_the_sockets(self) -> str:
        return f"{os.environ['JUPYTER_RUNTIME_DIR']}/{uuid4().hex[:8]}"


class ThisAsyncKernel(ThisKernel, AsyncKernelManager):
    """The same for nbclient."""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """An empty home, with all that Jupyter and its friends write kept beside it."""
    # Not pytest's own directory: the path of a Unix socket holds about 100 characters.
    with tempfile.TemporaryDirectory(prefix="ds-") as name, pytest.MonkeyPatch.context() as patch:
        for variable in (
            "HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR",
        ):  # fmt: skip
            folder = Path(name, variable.lower())
            folder.mkdir()
            patch.setenv(variable, str(folder))
        patch.delenv("MPLBACKEND", raising=False)
        yield Path(os.environ["HOME"])


class Cells:
    """Runs cells in a kernel, and keeps apart what each of them puts out."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self.text: dict[str, str] = defaultdict(str)
        self.shown: dict[str, dict[str, str]] = {}

    def run(self, source: str) -> str:
        """Run a cell to its end; returns its id."""
        cell: str = self._client.execute(dedent(source))
        self._read_until(
            lambda kind, parent, state: (kind, parent, state) == ("status", cell, "idle")
        )
        return cell

    def wait_for(self, cell: str, text: str) -> None:
        """Wait for output that comes when the cell is over."""
        while text not in self.text[cell]:
            self._read_until(lambda kind, parent, _: (kind, parent) == ("stream", cell))

    def _read_until(self, last: Callable[[str, str, str], bool]) -> None:
        while True:
            message = self._client.get_iopub_msg(timeout=TIMEOUT)
            kind, content = message["msg_type"], message["content"]
            parent = message["parent_header"].get("msg_id", "")
            self._take(kind, parent, content)
            if last(kind, parent, content.get("execution_state", "")):
                return

    def _take(self, kind: str, cell: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            self.text[cell] += content["text"]
        elif kind == "execute_result":
            self.shown[cell] = content["data"]
        elif kind == "error":
            pytest.fail("\n".join(content["traceback"]))


@pytest.fixture
def cells(home: Path, tmp_path: Path) -> Iterator[Cells]:
    manager = ThisKernel()
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        cells = Cells(client)
        cells.run("import asyncio, gc, threading, weakref, datastream")
        # The one thread that is the process's, not a store's.
        cells.run('REAPER = "datastream-reaper"')
        yield cells
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_all_notebooks_are_there() -> None:
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{number:02}_" for number in range(1, 8)]
    assert {path.stem for path in NOTEBOOKS} > LONG


@each_run
def test_a_notebook_runs_top_to_bottom_and_leaves_nothing(
    path: Path, home: Path, tmp_path: Path
) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook,
        timeout=LONG_TIMEOUT if path.stem in LONG else TIMEOUT,
        kernel_manager_class=ThisAsyncKernel,
        shutdown_kernel="immediate",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert "Traceback" not in "".join(o.text for o in outputs if o.get("name") == "stderr")
    for folder in (tmp_path, home, Path(os.environ["TMPDIR"])):
        assert list(folder.iterdir()) == []


@each_notebook
def test_a_notebook_is_committed_without_output(path: Path) -> None:
    import nbformat

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


LOCAL = """
    subscription.dispose()
    store = datastream.open("memory:")
    subscription = store.watch().subscribe(print)
"""
SERVED = """
    subscription.dispose()
    store = datastream.open("memory:")
    server = datastream_grpc.serve(store, "127.0.0.1:0")
    remote = datastream.open(f"grpc://{server.address}")
    subscription = remote.watch().subscribe(print)
"""


@pytest.mark.parametrize("cell", [LOCAL, SERVED], ids=["local", "served"])
def test_a_cell_run_again_leaves_no_thread_and_no_subscription(cells: Cells, cell: str) -> None:
    cells.run("""
        import datastream_grpc
        from datastream._watch.core import Core
        from reactivex.disposable import Disposable
        remote, server, subscription = datastream.open("memory:"), None, Disposable()
        stores, threads = weakref.WeakSet(), set()
    """)
    for _ in range(20):
        cells.run(cell)
        cells.run("stores |= {store, remote}; threads |= {*threading.enumerate()}")
    cells.run("""
        for _ in range(100):
            # Servers and stores that were dropped are stopped and closed in the background.
            gc.collect()
            cores = [it for it in gc.get_objects() if isinstance(it, Core) and not it.closed]
            if set(stores) == {store, remote} and len(cores) == 2:
                break
            threading.Event().wait(0.1)
        assert set(stores) == {store, remote}, list(stores)
        assert len(cores) == 2, cores
        remote.close()
        if server:
            server.stop()
        store.close()
        ours = [t for t in threads if t.name.startswith("datastream") and t.name != REAPER]
        for thread in ours:
            thread.join(30)
        assert len(ours) >= 20
        assert not [thread for thread in ours if thread.is_alive()]
    """)


def test_a_displayed_store_lives_until_it_is_closed(cells: Cells) -> None:
    cells.run('store = datastream.open("memory:"); alive = weakref.ref(store)')
    cells.run("store.watch().subscribe(print); store")
    cells.run("""
        store.close()
        del store
        gc.collect()
        assert alive() is not None  # Out[] keeps it, but closed it costs nothing
        names = [t.name for t in threading.enumerate() if t.name.startswith("datastream")]
        assert names in ([], [REAPER]), names
    """)


def test_a_subscription_keeps_its_store_open_until_it_is_disposed(cells: Cells) -> None:
    first = cells.run("""
        store = datastream.open("memory:shared")
        alive = weakref.ref(store)
        subscription = store.watch("a").map(lambda entry: entry.decode()).subscribe(print)
    """)
    cells.run('store = datastream.open("memory:shared"); gc.collect(); store["a"] = "still here"')
    cells.wait_for(first, "still here\n")
    cells.run("""
        subscription.dispose()
        for _ in range(100):
            gc.collect()
            if alive() is None:
                break
            threading.Event().wait(0.1)
        assert alive() is None
    """)


@pytest.mark.parametrize("url", ["memory:", "sqlite:test.db"])
def test_synchronous_calls_work_inside_the_running_loop(cells: Cells, url: str) -> None:
    cells.run(f"""
        assert asyncio.get_running_loop().is_running()
        with datastream.open({url!r}) as store:
            seen = []
            store.watch("a", "b").map(lambda entry: entry.key).subscribe(seen.append)
            entry = store.put("a", 1, expect="")
            store.put_many({{"b": 2, "c": 3}})
            del store["c"]
            assert store.flush(30)
            assert seen == ["a", "b"]
            assert dict(store) == {{"a": 1, "b": 2}}
            assert store.snapshot("a") == {{"a": entry}}
            assert store.watch("a").first().run() == entry
            store.clear()
    """)


@pytest.mark.parametrize("url", ["memory:", "sqlite:test.db"])
def test_async_for_works_in_a_cell(cells: Cells, url: str) -> None:
    cells.run(f"""
        store = datastream.open({url!r})
        store["number"] = 0
        async with store.awatch("number") as entries:
            async for entry in entries:
                if entry.decode() == 3:
                    break
                store["number"] += 1
        async for batch in store.awatch_batches("number"):
            assert batch.initial
            store.close()
    """)


def test_what_a_subscriber_prints_lands_in_the_cell_that_subscribed(cells: Cells) -> None:
    cells.run('store = datastream.open("memory:")')
    first = cells.run('store.watch().subscribe(lambda entry: print("first", entry.key));')
    second = cells.run('store.watch().subscribe(lambda entry: print("second", entry.key));')
    writing = cells.run('store["a"] = 1; store.flush(); print("written")')
    cells.wait_for(first, "first a\n")
    cells.wait_for(second, "second a\n")
    assert cells.text[writing] == "written\n"
    assert (cells.text[first], cells.text[second]) == ("first a\n", "second a\n")


def test_the_examples_of_the_page_work_as_cells(cells: Cells) -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        cells.run(example)


def test_a_store_and_an_entry_show_themselves(cells: Cells) -> None:
    cells.run('store = datastream.open("memory:"); store["<a>"] = 1')
    shown = cells.shown[cells.run("store")]
    assert "&lt;a&gt;" in shown["text/html"]
    assert shown["text/plain"] == "<Store memory: READY>"
    shown = cells.shown[cells.run('store.entry("<a>")')]
    assert "&lt;a&gt;" in shown["text/html"]
    assert shown["text/plain"].startswith("Entry(key='<a>'")
