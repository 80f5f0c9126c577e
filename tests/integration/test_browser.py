"""Notebooks in a real JupyterLab and a real browser; pictures stay in `build/screenshots`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dulwich.repo import Repo

import datastream
from tests.servers.lab import HINT, Lab, browser, lab, page

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "screenshots"

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

LIVE = [
    "import datastream\nstore = datastream.open('sqlite:live.db')",
    "store.live()",
    "store.live_plot('fx/USD', 'fx/GBP')",
]
PAST = [
    "import datastream\nconf = datastream.open('git:repository')",
    "conf.timeline('config.yaml')",
]
LAYERS = [
    "import datastream\n"
    "local = datastream.open('sqlite:local.db')\n"
    "local['db/pool'] = 20\n"
    "conf = datastream.overlay(local, 'sqlite:live.db')",
    "conf.live()",
]

BOUND = [
    "import datastream\n"
    "from pydantic import BaseModel\n"
    "class Database(BaseModel):\n"
    "    url: str = 'sqlite:app.db'\n"
    "    pool: int = 10\n"
    "class Limits(BaseModel):\n"
    "    rps: int = 100\n"
    "class Settings(BaseModel):\n"
    "    db: Database = Database()\n"
    "    limits: Limits = Limits()\n"
    "conf = datastream.overlay('sqlite:local.db', 'sqlite:live.db')\n"
    "conf['app/db/pool'] = 20\n"
    "settings = conf.bind(Settings, 'app/')",
    "settings.live()",
]


class Browser:
    """A notebook in front of a person.

    Args:
        page: of the browser.
        errors: what its console has said so far.
        served: the JupyterLab.
    """

    def __init__(self, page: Any, errors: list[str], served: Lab) -> None:
        self.page = page
        self.errors = errors
        self._served = served

    def open(self, name: str) -> None:
        self.page.goto(self._served.address(name))
        # The kernel is there: before, running a cell asks for one.
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()

    def run_all(self) -> None:
        self.menu("Run", "Run All Cells")

    def menu(self, name: str, item: str) -> None:
        self.page.get_by_role("menuitem", name=name, exact=True).click()
        self.page.get_by_text(item, exact=True).click()

    def keep(self, name: str) -> None:
        """Keep a picture."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def keep_cells(self, name: str, first: int = 0, height: float = 1_000) -> None:
        """Keep a picture of the cells alone, from one on, as far as they reach."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        cells = self.page.locator(".jp-Notebook .jp-Cell")
        panel = self.page.locator(".jp-NotebookPanel-notebook").bounding_box()
        begin, last = cells.nth(first).bounding_box(), cells.last.bounding_box()
        top = max(panel["y"] + 4, begin["y"] - 4)
        bottom = min(panel["y"] + panel["height"], last["y"] + last["height"] + 8)
        clip = {**panel, "y": top, "height": min(bottom - top, height)}
        self.page.screenshot(path=PICTURES / f"{name}.png", clip=clip)

    def go_dark(self) -> None:
        """Choose the dark theme, and wait until it is there as a whole."""
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        self.page.get_by_text("Theme", exact=True).hover()
        self.page.get_by_text("JupyterLab Dark", exact=True).click()
        self.page.locator("body[data-jp-theme-light='false']").wait_for(state="attached")
        # While it loads, JupyterLab's moons cover the page.
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def cell(self, key: str, column: str) -> Any:
        return self.page.locator(f".ds-table tr[data-key='{key}'] .ds-{column}")

    def wait_for_text(self, place: Any, text: str) -> None:
        place.filter(has_text=text).first.wait_for()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Browser]:
    program = browser()
    if program is None:
        pytest.skip(HINT)
    pytest.importorskip("playwright", reason=HINT)
    with lab(tmp_path) as served, page(program) as (opened, errors):
        front = Browser(opened, errors, served)
        yield front
        front.keep("last")
        assert errors == []


def _notebook(folder: Path, name: str, cells: list[str]) -> str:
    import nbformat

    made = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
        cells=[nbformat.v4.new_code_cell(source) for source in cells],  # type: ignore[no-untyped-call]
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(made, folder / name)  # type: ignore[no-untyped-call]
    return name


def test_the_quickstart_runs(front: Browser, tmp_path: Path) -> None:
    (source,) = (ROOT / "notebooks").glob("01_*.ipynb")
    shutil.copy(source, tmp_path)
    front.open(source.name)
    front.run_all()
    last = front.page.locator(".jp-CodeCell").last
    last.locator(".jp-OutputArea-output").first.wait_for()
    front.page.locator(".datastream").last.scroll_into_view_if_needed()
    front.keep("quickstart")
    assert front.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_a_live_table_and_a_plot_follow_another_process(front: Browser, tmp_path: Path) -> None:
    with datastream.open(f"sqlite:{tmp_path / 'live.db'}") as outside:
        outside.put_many({f"n/{number:03}": number for number in range(300)})
        outside.put_many({"fx/USD": 1.08, "fx/GBP": 0.85, "db/password": "hunter2"})
        outside["motd"] = "<script>document.title = 'attacked'</script>"
        front.open(_notebook(tmp_path, "live.ipynb", LIVE))
        front.run_all()
        front.wait_for_text(front.cell("fx/USD", "value"), "1.08")
        front.wait_for_text(front.cell("db/password", "value"), "****")
        outside["fx/USD"] = 1.25
        front.wait_for_text(front.cell("fx/USD", "value"), "1.25")
        front.page.locator(".ds-table tr.ds-fresh[data-key='fx/USD']").wait_for()
        front.keep_cells("live-table", height=407)
        _sort_and_filter(front)
        _plot(front, outside)
        _stops_when_cleared(front, outside)
        assert "attacked" not in front.page.title()


def _sort_and_filter(front: Browser) -> None:
    head = front.page.locator(".ds-table th")
    head.filter(has_text="value").click()
    front.wait_for_text(head, "value ▴")
    head.filter(has_text="value").click()
    front.wait_for_text(front.page.locator(".ds-table td.ds-key").first, "motd")
    front.page.locator(".ds-filter").fill("n/29")
    front.wait_for_text(front.page.locator(".ds-where"), "1–10 of 10 (304 in all)")
    front.keep("live-table-filtered")
    front.page.locator(".ds-filter").fill("script")
    front.wait_for_text(front.page.locator(".ds-table td.ds-value"), "<script>")
    front.page.locator(".ds-filter").fill("")
    front.page.get_by_title("next page").click()
    front.wait_for_text(front.page.locator(".ds-where"), "26–50 of 304")


def _plot(front: Browser, outside: datastream.Store) -> None:
    plot = front.page.locator(".ds-plot")
    plot.scroll_into_view_if_needed()
    for number in range(20):
        outside["fx/USD"] = 1.2 + number % 5 / 10
        front.wait_for_text(plot.locator(".ds-series"), f"fx/USD {1.2 + number % 5 / 10}")
    front.keep_cells("live-plot", 2)


def _stops_when_cleared(front: Browser, outside: datastream.Store) -> None:
    """What is left in the kernel when all outputs are cleared: asked of the kernel itself."""
    front.menu("Edit", "Clear Outputs of All Cells")
    front.page.locator(".ds-live").first.wait_for(state="detached")
    front.page.locator(".jp-Cell-inputWrapper .cm-content").last.fill(
        "import threading, time\n"
        "for _ in range(100):\n"
        "    left = [t.name for t in threading.enumerate() if t.name == 'datastream live']\n"
        "    if not left: break\n"
        "    time.sleep(0.1)\n"
        "print('left:', left)"
    )
    front.page.keyboard.press("Control+Enter")
    front.wait_for_text(front.page.locator(".jp-OutputArea-output"), "left: []")


def test_a_timeline_is_scrubbed(front: Browser, tmp_path: Path) -> None:
    Repo.init(str(tmp_path / "repository"), mkdir=True).close()
    with datastream.open(f"git:{tmp_path / 'repository'}") as outside:
        author = "Ada Lovelace <ada@example.org>"
        for number in range(1, 7):
            text = f"pool: {number}\nurl: postgresql://me:hunter2@db/x\nname: datastream\n"
            outside.put("config.yaml", text.encode(), message=f"pool of {number}", author=author)
        front.open(_notebook(tmp_path, "past.ipynb", PAST))
        front.run_all()
        line = front.page.locator(".ds-timeline")
        front.wait_for_text(line.locator(".ds-added"), "+pool: 6")
        front.wait_for_text(line.locator(".ds-removed"), "-pool: 5")
        bar = line.locator(".ds-bar")
        bar.fill("2")
        front.wait_for_text(line.locator(".ds-added"), "+pool: 3")
        front.wait_for_text(line.locator(".ds-message"), "pool of 3")
        front.wait_for_text(line.locator(".ds-about"), "3 of 6")
        front.keep_cells("timeline")
        line.get_by_title("newer").click()
        front.wait_for_text(line.locator(".ds-added"), "+pool: 4")
        outside.put("config.yaml", b"pool: 7\n", message="outside")
        front.wait_for_text(line.locator(".ds-about"), "4 of 7")
        bar.fill("6")
        front.wait_for_text(line.locator(".ds-message"), "outside")
        assert "hunter2" not in front.page.content()


def test_an_overlay_shows_its_layers_on_a_dark_page(front: Browser, tmp_path: Path) -> None:
    with datastream.open(f"sqlite:{tmp_path / 'live.db'}") as outside:
        outside.put_many({"db/pool": 5, "db/url": "sqlite:x"})
        front.open(_notebook(tmp_path, "layers.ipynb", LAYERS))
        front.run_all()
        front.wait_for_text(front.cell("db/pool", "layer"), "sqlite:local.db hides sqlite:live.db")
        front.wait_for_text(front.cell("db/url", "layer"), "sqlite:live.db")
        front.go_dark()
        outside["db/url"] = "sqlite:y"
        front.wait_for_text(front.cell("db/url", "value"), "sqlite:y")
        front.page.locator(".ds-table tr.ds-fresh[data-key='db/url']").wait_for()
        front.keep_cells("overlay-dark")


def test_a_binding_is_followed_until_the_kernel_is_restarted(
    front: Browser, tmp_path: Path
) -> None:
    with datastream.open(f"sqlite:{tmp_path / 'live.db'}") as outside:
        outside.put_many({"app/db/pool": 5, "app/limits/rps": 9})
        front.open(_notebook(tmp_path, "bound.ipynb", BOUND))
        front.run_all()
        front.wait_for_text(front.cell("db.pool", "layer"), "sqlite:local.db hides sqlite:live.db")
        outside["app/limits/rps"] = "many"
        front.page.locator(".ds-refused").filter(has_text="app/limits/rps: limits.rps").wait_for()
        front.keep_cells("binding", 1)
        outside["app/limits/rps"] = 10
        front.wait_for_text(front.cell("limits.rps", "value"), "10")
        front.page.locator(".ds-refused div").wait_for(state="detached")
        _restart(front)
        gone = front.page.locator(".ds-live[data-over^='not live']")
        gone.wait_for()
        front.keep_cells("restarted", 1)
        outside["app/limits/rps"] = 11
        # Twice: what a cell displayed before is taken away without an error on the page.
        for _ in range(2):
            front.run_all()
            front.wait_for_text(front.cell("limits.rps", "value"), "11")
            assert gone.count() == 0


def _restart(front: Browser) -> None:
    front.menu("Kernel", "Restart Kernel…")
    front.page.get_by_role("button", name="Confirm Kernel Restart").click()
