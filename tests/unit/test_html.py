"""What Jupyter shows of a store and an entry: escaped, bounded, and never a traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import NamedTuple

import datastream_grpc
import pytest
from pydantic import BaseModel

import datastream
from datastream import Capability, Entry, SourceUnavailable, State, Status, Store
from datastream.entry import deleted
from datastream.notebook._diff import differences_table, side_by_side
from datastream.notebook._html import entry_card, store_table, view_table
from datastream.notebook._parts import CARD_CHARS, CELL_CHARS, ROWS, age
from datastream.notebook._values import masked, shown_entry, shown_value
from datastream.selection import Selects
from datastream.source import Health, Reading
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually

ATTACK = "<script>alert('&\"')</script>"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


class Page(HTMLParser):
    """The text of some HTML; fails where tags are not balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


class SpySource(MemorySource):
    """Records which keys are read, and runs a hook between the list of keys and the read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_keys: set[str] = set()
        self.between: Callable[[], object] = lambda: None
        self.before_reads: Callable[[], object] = lambda: None

    def capabilities(self) -> Sequence[Capability]:
        found = super().capabilities()
        self.between()
        return found

    def read(self, selection: Selects, since: str | None) -> Reading:
        self.before_reads()
        self.read_keys |= selection.keys
        return super().read(selection, since)


@pytest.fixture
def spy() -> SpySource:
    return SpySource()


@pytest.fixture
def store(spy: SpySource) -> Iterator[Store]:
    with Store(spy, name="spied") as store:
        yield store


def test_jupyter_finds_both(store: Store) -> None:
    entry = store.put("fx/USD", 1.0853)
    assert store._repr_html_() == store_table(store)
    assert entry._repr_html_() == entry_card(entry)


def test_a_card_shows_every_field() -> None:
    page = Page(entry_card(Entry("fx/USD", b"1.0853", "float", MOMENT, "r7")))
    for part in ("fx/USD", "1.0853", "float", "r7", "2026-01-02 03:04:05+00:00"):
        assert part in page.text


def test_a_card_leaves_out_what_is_not_known() -> None:
    page = Page(entry_card(Entry("k", b"x", "str")))
    assert "revision" not in page.text
    assert "updated" not in page.text


def test_a_delete_is_shown_as_deleted() -> None:
    assert "deleted" in Page(entry_card(deleted("k"))).text


def test_everything_is_escaped_in_a_card() -> None:
    html = entry_card(Entry(ATTACK, ATTACK.encode(), ATTACK, MOMENT, ATTACK))
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count("<script>") == 4
    assert "'&\"" not in html


def test_everything_is_escaped_in_a_table() -> None:
    with Store(MemorySource(), name=ATTACK) as store:
        store.put(ATTACK, ATTACK.encode(), value_type=ATTACK)
        page = Page(store_table(store))
    assert "script" not in page.tags
    assert page.text.count("<script>") == 4


@pytest.mark.parametrize("mark", ["\x1b", "\u202e", "\u2028"])
def test_marks_that_mislead_are_spelled_out(mark: str) -> None:
    html = entry_card(Entry(f"k{mark}", f"v{mark}".encode(), "str"))
    assert mark not in html
    assert html.count(ascii(mark)[1:-1]) == 2


def test_a_file_name_that_is_no_utf8_is_spelled_out() -> None:
    with Store(MemorySource(), name="sqlite:\udcff.db") as store:
        assert r"\udcff" in store_table(store).encode().decode()


def test_a_long_text_is_cut_and_its_size_named() -> None:
    page = Page(entry_card(Entry("k", b"x" * 3_000_000, "str")))
    assert "x" * CARD_CHARS + "…" in page.text
    assert "3,000,000 bytes" in page.text
    assert len(page.text) < 2 * CARD_CHARS


@pytest.mark.parametrize("shift", range(4))
def test_a_cut_within_a_character_is_no_decoding_error(shift: int) -> None:
    text = "x" * shift + "€😀" * CARD_CHARS
    page = Page(entry_card(Entry("k", text.encode(), "str")))
    assert text[:CARD_CHARS] + "…" in page.text


def test_a_text_of_just_the_limit_is_whole() -> None:
    text = "€" * CARD_CHARS
    html = entry_card(Entry("k", text.encode(), "str"))
    assert text in html
    assert "…" not in html


@pytest.mark.parametrize("value", [b"\x00\x01", b"\xff\x00", b"ok\xc3", b"\x80" * 3_000_000])
def test_bytes_that_are_no_text_are_shown_in_hex_with_their_size(value: bytes) -> None:
    page = Page(entry_card(Entry("k", value, "str")))
    assert value[:16].hex(" ") in page.text
    assert f"{len(value):,} bytes" in page.text
    assert len(page.text) < 200


def test_an_empty_value_is_said_to_be_empty() -> None:
    assert "empty" in Page(entry_card(Entry("k", b"", "str"))).text


def test_a_table_shows_name_state_and_entries(store: Store) -> None:
    store.update({"a": 1, "b": {"x": [1, 2]}})
    page = Page(store_table(store))
    for part in ("spied", "READY", "2 keys", "a", "1", "int", "b", '{"x":[1,2]}', "json"):
        assert part in page.text


def test_an_empty_store_is_a_heading_without_table(store: Store) -> None:
    page = Page(store_table(store))
    assert "READY\n \n0 keys" in page.text
    assert "table" not in page.tags


def test_a_huge_store_is_counted_but_only_the_first_entries_are_read(
    store: Store, spy: SpySource
) -> None:
    store.update({f"k{number}": number for number in range(100_000)})
    page = Page(store_table(store))
    assert spy.read_keys == {f"k{number}" for number in range(ROWS)}
    assert page.tags.count("tr") == ROWS + 1
    assert "100,000 keys" in page.text
    assert f"… and {100_000 - ROWS:,} more" in page.text


def test_as_many_keys_as_rows_leave_nothing_more(store: Store) -> None:
    store.update({f"k{number}": number for number in range(ROWS)})
    assert "more" not in Page(store_table(store)).text


def test_a_table_of_long_texts_stays_small(store: Store) -> None:
    long = "<" * 5_000
    for number in range(ROWS):
        store.put(f"{number}{long}", long.encode() * 10, value_type=long[:255])
    assert len(Page(store_table(store)).text) < ROWS * 4 * CELL_CHARS


def test_a_key_that_vanishes_meanwhile_is_left_out(store: Store, spy: SpySource) -> None:
    store.update({"stays": 1, "goes": 2})
    spy.between = lambda: spy._table.entries.pop("goes", None)
    page = Page(store_table(store))
    assert "stays" in page.text
    assert "goes" not in page.text


def test_a_closed_store_says_so() -> None:
    store = datastream.open("memory:")
    store.close()
    page = Page(store_table(store))
    assert "memory:" in page.text
    assert "CLOSED" in page.text


@pytest.mark.parametrize("error", [SourceUnavailable, OSError, ZeroDivisionError])
def test_an_unavailable_store_shows_the_error(
    store: Store, spy: SpySource, error: type[Exception]
) -> None:
    def fail() -> None:
        raise error(f"no route to {ATTACK}" + "x" * 5_000)

    spy.between = fail
    html = store_table(store)
    page = Page(html)
    assert "unavailable" in page.text
    assert f"{error.__name__}: no route to <script>" in page.text
    assert "script" not in page.tags
    assert len(html) < 2 * CARD_CHARS


def test_a_stale_store_shows_its_entries_and_the_error(store: Store, spy: SpySource) -> None:
    store["a"] = 1
    # It answers from a copy.
    spy.health = Health(SourceUnavailable("the disk is gone; plug it in"))
    page = Page(store_table(store))
    assert "STALE\n \n1 key\n" in page.text
    assert "the disk is gone; plug it in" in page.text


def test_showing_a_store_leaves_no_subscription(store: Store) -> None:
    store_table(store)
    assert not store._core._publisher.routes
    assert store._status._subscribers == ()


def test_a_secret_is_stars_by_its_key_by_its_field_and_in_a_url(store: Store) -> None:
    store.put("db/password", "cretpw")
    store.put("db", {"user": "me", "api_key": "cretpw", "pool": 3})
    store.put("main.toml", 'secret = "two cretpw"\npool = 3', value_type="application/toml")
    store.put("url", "postgresql://me:cretpw@host/x")
    html = store_table(store) + view_table(store.view()) + entry_card(store.entry("db"))
    assert "cretpw" not in html
    assert html.count("pool") == 5
    assert "me:***@host" in html


def test_what_is_called_like_a_secret_but_is_none_is_shown() -> None:
    page = Page(entry_card(Entry("passengers", b"12 people", "str")))
    assert "12 people" in page.text


@pytest.mark.parametrize("cut", range(8, 40))
def test_a_secret_is_hidden_wherever_its_text_is_cut(cut: int) -> None:
    shown = shown_entry(Entry("k", b'{"password": "one cretpw two cretpw three"}', "json"), cut)
    assert "cre" not in shown.text


def test_a_view_shows_its_values_and_what_it_refused(store: Store) -> None:
    store.update({"fx/USD": 1.08, "fx/GBP": ATTACK})
    with store.view("fx/", as_=float) as view:
        page = Page(view._repr_html_())
        for part in ("spied, view('fx/')", "READY", "1 key · 1 value rejected", "1.08", "float"):
            assert part in page.text
    page = Page(view._repr_html_())
    assert "CLOSED" in page.text
    assert "1.08" in page.text


def test_a_view_without_a_state_shows_why(spy: SpySource) -> None:
    def fail() -> None:
        raise SourceUnavailable("no route to host")

    spy.before_reads = fail
    with Store(spy, name="spied") as store, store.view("fx/") as view:
        assert "has no state yet: no route to host" in Page(view._repr_html_()).text


def test_a_view_of_many_keys_is_bounded(store: Store) -> None:
    store.update({f"k{number}": "x" * 1_000 for number in range(5_000)})
    with store.view() as view:
        html = view._repr_html_()
    assert Page(html).tags.count("tr") == ROWS + 1
    assert f"… and {5_000 - ROWS:,} more" in html
    assert len(html) < 20_000


class Database(BaseModel):
    url: str = "sqlite:"
    password: str = "cretpw"


class Settings(BaseModel):
    limit: int = 10
    name: str = ATTACK
    db: Database = Database()


def test_a_binding_shows_fields_layers_and_why_a_state_was_rejected(store: Store) -> None:
    with datastream.open("memory:") as below, datastream.overlay(store, below) as both:
        below["app/limit"] = 20
        binding = both.bind(Settings, "app/")
        page = Page(binding._repr_html_())
        for part in ("limit", "20", "memory:", "app/limit", "db.url", "defaults", ATTACK):
            assert part in page.text
        assert "script" not in page.tags
        assert "cretpw" not in page.text
        assert "hides" not in page.text, "that a model has defaults goes without saying"
        below["app/name"] = "plain"
        store["app/name"] = "above"
        both.flush()
        eventually(lambda: binding.current.name == "above", "the name above")
        assert f"{store.name} hides {below.name}" in Page(binding._repr_html_()).text
        store["app/limit"] = "many"
        assert binding.status.wait(lambda status: bool(status.degraded), 30)
        page = Page(binding._repr_html_())
        assert "rejected" in page.text
        assert "valid integer" in page.text
        assert "20\n" in page.text
        binding.close()


def test_a_status_is_a_badge_with_its_reason() -> None:
    status = Status(State.STALE, MOMENT, SourceUnavailable(ATTACK), "polling")
    page = Page(status._repr_html_())
    for part in ("STALE", "polling", "since 2026-01-02 03:04:05", f"SourceUnavailable: {ATTACK}"):
        assert part in page.text
    assert "script" not in page.tags
    colours = {Page(Status(state, MOMENT)._repr_html_()).text for state in State}
    assert len(colours) == len(State)


def test_an_observable_says_what_it_follows(store: Store) -> None:
    with store.view("a") as view:
        told = {
            "watch('fx/')": store.watch("fx/"),
            "watch(match='*')": store.watch_batches(match="*"),
            "watch('a')": store.watch_values("a"),
            "view('a'), changes": view.changes,
            "view('a'), change_batches": view.change_batches,
        }
        for words, observable in told.items():
            assert repr(observable) == f"<Observable spied, {words}>"
            assert f"spied, {words}" in Page(observable._repr_html_()).text
        assert repr(store.status) == "<Observable status of spied: READY>"
        assert "READY" in Page(store.status._repr_html_()).text
        assert "READY" in Page(view.status._repr_html_()).text


def test_a_server_shows_its_address_and_its_clients(store: Store) -> None:
    with datastream_grpc.serve(store, "127.0.0.1:0") as server:
        assert server.clients == ()
        with datastream.open(f"grpc://{server.address}") as remote:
            came = threading.Event()
            remote.watch("a").subscribe(lambda _: came.set())
            store["a"] = 1
            assert came.wait(30)
            (client,) = server.clients
            page = Page(server._repr_html_())
            for part in (server.address, "READY", "spied", "1", client):
                assert part in page.text


def test_a_recording_shows_its_last_rows(store: Store) -> None:
    store.update({ATTACK: ATTACK, "db/password": "cretpw"})
    with store.window(match="**") as window:
        page = Page(window._repr_html_())
    assert "1 row" in page.text
    assert page.text.count("<script>") == 2
    assert "script" not in page.tags
    assert "cretpw" not in page.text


def test_an_age_is_in_one_unit() -> None:
    ages = {0: "0 s", 59: "59 s", 60: "1 min", 7_199: "1 h", 90_000: "1 d", -5: "0 s"}
    for seconds, words in ages.items():
        assert age(MOMENT, MOMENT + timedelta(seconds=seconds)) == words
    assert age(None) == ""


class Difference(NamedTuple):
    key: str
    a: Entry | None
    b: Entry | None


def test_differences_are_side_by_side_and_marked() -> None:
    old = Entry("c.yaml", f"a: 1\nb: 2\nc: {ATTACK}\n".encode(), "application/yaml")
    new = old._replace(value=f"a: 1\nb: 3\nc: {ATTACK}\n".encode())
    secret = Entry("db/password", b"cretpw", "str")
    html = differences_table(
        [Difference("c.yaml", old, new), Difference("db/password", secret, None)],
        names=("left", "<right>"),
        more=True,
    )
    page = Page(html)
    for part in ("left", "<right>", "b: 2", "b: 3", "… and more", "none"):
        assert part in page.text
    assert "script" not in page.tags
    assert "cretpw" not in html
    assert "no difference" in differences_table([])


def test_a_difference_names_its_stores_and_never_raises(store: Store) -> None:
    with datastream.open("memory:") as other:
        store["a"] = 1
        assert repr(datastream.diff(store, other)) == "<Diff of spied and memory:>"
        page = Page(datastream.diff(store, other)._repr_html_())
        assert "spied" in page.text
        assert "memory:" in page.text
        away = datastream.diff(store, "grpc://127.0.0.1:9")
        assert "SourceUnavailable" in Page(away._repr_html_()).text
        other.close()
        assert "StoreClosed" in Page(datastream.diff(store, other)._repr_html_()).text


@pytest.mark.parametrize("text", ["a" * 200_000, "a." * 100_000, '"' * 200_000, "a:" * 100_000])
def test_a_long_text_without_a_secret_is_looked_through_once(text: str) -> None:
    # Tried from each character on, the first one would take hours.
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer cretpw",
        '{"headers": {"authorization": "Basic cretpw"}}',
        "authorization=cretpw, and more",
        "-----BEGIN EC PRIVATE KEY-----\ncretpw\n-----END EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMIIcretpw",
    ],
)
def test_what_authorizes_is_hidden(text: str) -> None:
    assert "cretpw" not in masked(text)
    assert masked("authorization is needed; basic usage") == "authorization is needed; basic usage"
    assert "MII" in masked("-----BEGIN CERTIFICATE-----\nMII")


def test_a_large_value_is_made_as_far_as_it_is_shown() -> None:
    class Made:
        count = 0

        def __repr__(self) -> str:
            Made.count += 1
            return "made"

    nested = {"a": [1, "x", None], "password": "cretpw", "more": [Made()] * 1_000_000}
    text = shown_value("k", nested).text
    assert text.startswith("{'a': [1, 'x', None], 'password': **********, 'more': [made, made, ")
    assert Made.count < 100
    small = {"a": [], "b": {}, "c": (1, [2]), "d": "é"}
    assert shown_value("k", small).text == repr(small)
    assert shown_value("k", "x" * 10_000_000).text == "x" * CELL_CHARS + "…"


def test_only_lines_that_differ_are_marked() -> None:
    old, new = Entry("k", b"a\nb\nc", "str"), Entry("k", b"a\nx\nc\nd", "str")
    left, right = side_by_side(old, new)
    assert left == [(False, "a"), (True, "b"), (False, "c")]
    assert right == [(False, "a"), (True, "x"), (False, "c"), (True, "d")]
    left, right = side_by_side(Entry("k", b"1", "int"), Entry("k", b"1", "str"))
    assert (left, right) == ([(True, "int, 1")], [(True, "str, 1")])


def test_a_long_value_is_shown_where_it_differs() -> None:
    lines = [f"line {number}" for number in range(1_000)]
    old = Entry("k", "\n".join(lines).encode(), "str")
    new = Entry("k", "\n".join([*lines[:700], "another", *lines[701:]]).encode(), "str")
    left, right = side_by_side(old, new)
    assert len(left) == len(right) == 20
    assert (True, "line 700") in left
    assert (True, "another") in right
