"""Layers that fail, come back, come late, are swapped; what hides what; who is written."""

import asyncio
import os
import shutil
import sqlite3
import threading
import warnings
import zipfile
from datetime import UTC, datetime

import datastream_grpc
import pytest
from dulwich.repo import Repo

import datastream
from datastream import (
    DatastreamError,
    Feature,
    InvalidValue,
    KeyNotFound,
    Operation,
    ReadOnly,
    RevisionConflict,
    Selection,
    SourceUnavailable,
    State,
    Store,
    Unsupported,
    overlay,
)
from datastream._overlay import layer as layer_module
from datastream._overlay.table import Table
from datastream._upstream import Upstream
from datastream._watch.routing import Union
from datastream.selection import NOTHING
from datastream.source import Reading
from datastream.sources.memory import MemorySource
from datastream.testing import TIMEOUT, Recorder, Spy
from datastream.testing._tools import eventually, together


class Layers:
    """Named stores in memory whose reads can be made to fail."""

    def __init__(self, *names):
        self.spies = {name: Spy(MemorySource()) for name in names}
        for spy in self.spies.values():
            # Else values are read without the calls that fail.
            spy.instant = False
        self.stores = {name: Store(spy, name=name) for name, spy in self.spies.items()}
        self.opened = []

    def __getitem__(self, name):
        return self.stores[name]

    def overlay(self, **options):
        laid = overlay(*self.stores.values(), **options)
        self.opened.append(laid)
        return laid

    def fail(self, name):
        self.spies[name].failure = SourceUnavailable("pulled the plug")
        self.stores[name].refresh()

    def mend(self, name):
        self.spies[name].failure = None
        self.stores[name].refresh()


@pytest.fixture
def layers():
    layers = Layers("top", "middle", "bottom")
    yield layers
    for store in (*layers.opened, *layers.stores.values()):
        store.close()


def values(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


def test_a_removed_key_shows_what_is_below_with_its_revision(layers):
    below = layers["bottom"].put("k", "below")
    middle = layers["middle"].put("k", "middle")
    laid = layers.overlay()
    recorder = Recorder(laid)
    recorder.wait_state({"k": b"middle"})
    layers["middle"].delete("k")
    recorder.wait_state({"k": b"below"})
    again = layers["middle"].put("k", "again")
    recorder.wait_state({"k": b"again"})
    assert [e.revision for e in recorder.entries] == [
        middle.revision,
        below.revision,
        again.revision,
    ]
    assert all(e.operation is Operation.PUT for e in recorder.entries)


def test_one_batch_of_a_layer_is_one_batch(layers):
    layers["bottom"].put_many({"a": 0, "b": 0, "hidden": 0})
    layers["top"].put("hidden", 1)
    laid = layers.overlay()
    recorder = Recorder(laid)
    for number in range(1, 30):
        layers["bottom"].put_many({"a": number, "b": number, "hidden": number})
    recorder.wait(lambda r: r.state.get("b") == b"29")
    assert all(state.get("a") == state.get("b") for state in recorder.states)
    assert recorder.state["hidden"] == b"1"
    assert [e.key for e in recorder.entries].count("hidden") == 1


def test_the_initial_batch_is_complete_over_all_layers(layers):
    for number, name in enumerate(("bottom", "middle", "top")):
        layers[name].put_many({"k": number, name: number})
    laid = layers.overlay()
    recorder = Recorder(laid, "k", "top", "middle", "bottom")
    recorder.wait_ready()
    assert recorder.state == {"k": b"2", "top": b"2", "middle": b"1", "bottom": b"0"}
    assert len(recorder.batches) == 1


def test_a_required_layer_that_is_away_delays_the_initial_batch(layers):
    layers["top"].put("k", "top")
    layers["bottom"].put("k", "bottom")
    layers.fail("top")
    laid = layers.overlay()
    recorder = Recorder(laid)
    assert not recorder.batches
    status = laid.status.current
    assert status.state is State.STALE
    assert "layer top" in str(status.error)
    with pytest.raises(SourceUnavailable, match="layer top"):
        laid.snapshot()
    layers.mend("top")
    laid.refresh()
    recorder.wait_ready()
    assert [e.value for e in recorder.entries] == [b"top"], "the value below must never show"


@pytest.mark.parametrize("name", ["top", "middle", "bottom"])
def test_a_layer_in_trouble_keeps_its_last_good_state(layers, name):
    for other in layers.stores:
        layers[other].put_many({other: other, "k": other})
    laid = layers.overlay()
    recorder = Recorder(laid)
    recorder.wait(lambda r: len(r.state) == 4)
    before = recorder.state
    layers.fail(name)
    eventually(lambda: laid.status.current.state is State.STALE, "the overlay is STALE")
    assert f"layer {name}" in str(laid.status.current.error)
    assert "plug" in str(laid.status.current.error)
    # All else goes on, and those who come now get the last good state too.
    other = "middle" if name != "middle" else "bottom"
    layers[other].put("new", "new")
    recorder.wait_state({**before, "new": b"new"})
    assert Recorder(laid).state == {**before, "new": b"new"}
    assert values(laid) == {**before, "new": b"new"}
    assert laid[name] == name
    layers[name].write(datastream.Write(name, b"changed", "str"))
    layers.mend(name)
    recorder.wait_state({**before, "new": b"new", name: b"changed"})
    eventually(lambda: laid.status.current.state is State.READY, "the overlay is READY")
    assert [e.key for e in recorder.live] == ["new", name]


def test_recovery_without_any_change_is_ready_too(layers):
    layers["middle"].put("k", 1)
    laid = layers.overlay()
    recorder = Recorder(laid)
    recorder.wait_ready()
    layers.fail("middle")
    eventually(lambda: laid.status.current.state is State.STALE, "the overlay is STALE")
    layers.mend("middle")
    eventually(lambda: laid.status.current.state is State.READY, "the overlay is READY")
    assert recorder.live == []


def test_a_layer_whose_store_was_closed_keeps_its_last_state(layers):
    layers["bottom"].put("k", 1)
    laid = layers.overlay()
    recorder = Recorder(laid)
    recorder.wait_state({"k": b"1"})
    layers["bottom"].close()
    eventually(lambda: "closed" in str(laid.status.current.error), "the status says so")
    layers["top"].put("t", 1)
    recorder.wait_state({"k": b"1", "t": b"1"})
    assert laid["k"] == 1
    laid.refresh()


def test_an_optional_layer_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(layer_module, "OPEN_AGAIN", 0.05)
    path = tmp_path / "conf"
    with (
        datastream.open("memory:") as base,
        overlay(f"file:{path}", base, optional=f"file:{path}", write=base) as laid,
    ):
        base.put_many({"a": "base", "b": "base"})
        recorder = Recorder(laid)
        recorder.wait_state({"a": b"base", "b": b"base"})
        assert laid.status.current.state is State.READY
        assert "missing" in laid.status.current.degraded
        path.mkdir()
        (path / "a").write_text("conf")
        recorder.wait_state({"a": b"conf", "b": b"base"})
        eventually(lambda: laid.status.current.degraded == "", "nothing is missing any more")
        # It has been there: from now on it is in trouble, and not missing.
        path.rename(tmp_path / "away")
        eventually(lambda: laid.status.current.state is State.STALE, "the overlay is STALE")
        assert str(path) in str(laid.status.current.error)
        assert recorder.state == {"a": b"conf", "b": b"base"}
        (tmp_path / "away").rename(path)
        eventually(lambda: laid.status.current.state is State.READY, "the overlay is READY")


def test_an_optional_layer_whose_backend_is_away_joins_later(layers):
    layers["bottom"].put("k", "bottom")
    layers["top"].put("k", "top")
    layers.fail("top")
    laid = layers.overlay(optional=layers["top"])
    recorder = Recorder(laid)
    recorder.wait_state({"k": b"bottom"})
    assert laid["k"] == "bottom"
    assert "layer top is missing" in laid.status.current.degraded
    layers.mend("top")
    recorder.wait_state({"k": b"top"})
    eventually(lambda: laid.status.current.degraded == "", "nothing is missing any more")


def test_a_layer_that_is_swapped_brings_only_differences(tmp_path):
    def table(path, rows):
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
            db.executemany("INSERT INTO data VALUES (?, ?)", rows.items())
        db.close()

    table(tmp_path / "live.db", {"a": "1", "b": "1", "gone": "1"})
    table(tmp_path / "new.db", {"a": "1", "b": "2"})
    with (
        datastream.open("memory:") as top,
        overlay(top, f"sqlite:{tmp_path}/live.db?readonly=true") as laid,
    ):
        top["a"] = "top"
        recorder = Recorder(laid)
        recorder.wait_state({"a": b"top", "b": b"1", "gone": b"1"})
        (tmp_path / "new.db").replace(tmp_path / "live.db")
        recorder.wait_state({"a": b"top", "b": b"2"})
        assert sorted(e.key for e in recorder.live) == ["b", "gone"]
        del top["a"]
        recorder.wait_state({"a": b"1", "b": b"2"})


# Writing.


def test_writes_go_to_the_first_layer_that_can_be_written(tmp_path):
    (tmp_path / "conf").mkdir()
    with (
        datastream.open("memory:") as below,
        overlay(f"file:{tmp_path}/conf?readonly=true", below) as laid,
    ):
        laid["k"] = 1
        assert below["k"] == 1
        (tmp_path / "conf" / "set").write_text("above")
        with pytest.raises(ReadOnly, match="conf"):
            laid["set"] = 2
        with pytest.raises(ReadOnly, match="conf"):
            laid.delete("set")
        assert "set" not in below


def test_write_names_the_layer(layers):
    laid = layers.overlay(write=layers["middle"])
    laid["k"] = 1
    assert [name for name in layers.stores if "k" in layers[name]] == ["middle"]


def test_expect_is_of_the_visible_revision(layers):
    below = layers["bottom"].put("k", "below")
    laid = layers.overlay()
    with pytest.raises(RevisionConflict):
        laid.put("k", "new", expect="")
    with pytest.raises(RevisionConflict):
        laid.put("k", "new", expect="other")
    put = laid.put("k", "new", expect=below.revision)
    assert layers["top"].entry("k") == put
    with pytest.raises(RevisionConflict):
        laid.put("k", "newer", expect=below.revision)
    assert laid.put("k", "newer", expect=put.revision).decode() == "newer"
    assert layers["bottom"]["k"] == "below"


def test_deleting_what_is_above_shows_what_is_below(layers):
    below = layers["bottom"].put("k", "below")
    laid = layers.overlay()
    recorder = Recorder(laid)
    laid["k"] = "above"
    del laid["k"]
    assert laid.entry("k") == below
    assert laid.flush(TIMEOUT)
    assert recorder.entries[-1] == below


def test_deleting_what_is_below_raises_unless_it_is_hidden(layers):
    layers["bottom"].put("k", "below")
    laid = layers.overlay()
    recorder = Recorder(laid)
    with pytest.raises(ReadOnly, match=r"bottom.*hide=True"):
        del laid["k"]
    laid.delete("k", hide=True)
    assert "k" not in laid
    assert list(laid) == []
    recorder.wait_state({})
    with pytest.raises(KeyNotFound):
        laid.delete("k")
    laid.delete("k", missing_ok=True)
    assert "k" not in laid, "the tombstone must stay"
    laid.put("k", "again", expect="")
    recorder.wait_state({"k": b"again"})
    del laid["k"]
    recorder.wait_state({"k": b"below"})
    with pytest.raises(KeyNotFound):
        laid.delete("nothing", hide=True)


def test_hidden_by_hand_in_a_document(tmp_path):
    (tmp_path / "s.toml").write_text('[db]\nurl = "!datastream/hidden"\n')
    with datastream.open("memory:") as base:
        base["db/url"] = "base"
        with overlay(f"file:{tmp_path}/s.toml", base, write=base) as laid:
            assert dict(laid) == {}
            assert [(held.layer, held.hides) for held in laid.explain("db/url")] == [
                (f"file:{tmp_path}/s.toml", True),
                ("memory:", False),
            ]


def test_explain_names_all_layers_that_hold_a_key(layers):
    below = layers["bottom"].put("k", "below")
    above = layers["top"].put("k", "above")
    laid = layers.overlay()
    assert [(h.layer, h.entry, h.visible, h.hides) for h in laid.explain("k")] == [
        ("top", above, True, False),
        ("bottom", below, False, False),
    ]
    assert laid.explain("k")[1].store is layers["bottom"]
    assert laid.explain("nothing") == ()
    assert asyncio.run(laid.aexplain("k")) == laid.explain("k")
    asyncio.run(laid.adelete("k", hide=True))
    assert [h.hides for h in laid.explain("k")] == [True, False]
    laid.close()
    with pytest.raises(datastream.StoreClosed):
        laid.explain("k")


def test_an_overlay_without_a_writable_layer_says_so():
    with overlay("env:DATASTREAM_TEST_") as laid:
        assert Feature.WRITE not in laid.features
        with pytest.raises(ReadOnly):
            laid["k"] = 1


@pytest.mark.parametrize(
    ("stores", "options", "message"),
    [
        ((), {}, "one layer or more"),
        (("memory:x", "memory:x"), {}, "memory:x is given twice"),
        (("memory:x",), {"write": "memory:y"}, "write=memory:y is none of .*: memory:x"),
        (("memory:x",), {"optional": ["memory:y"]}, "optional=memory:y is none of the layers"),
        (("nosuch:x",), {"optional": "nosuch:x"}, "no source for 'nosuch'"),
        (("file:/no/such/directory",), {}, "no such directory"),
        (("memory:x", "env:X_"), {"write": "env:X_"}, "env:X_ cannot be written"),
    ],
)
def test_what_is_no_overlay(stores, options, message):
    with pytest.raises(DatastreamError, match=message):
        overlay(*stores, **options)


def test_given_stores_stay_open_and_opened_ones_are_closed(tmp_path):
    with datastream.open("memory:") as mine:
        laid = overlay(mine, f"sqlite:{tmp_path}/s.db")
        opened = laid._layers[1].upstream.store
        laid.close()
        mine["k"] = 1
        assert opened.status.current.state is State.CLOSED


# Watching.


def test_what_is_watched_may_grow(layers):
    laid = layers.overlay()
    recorders = []
    for number in range(20):
        recorders.append(Recorder(laid, f"k{number}/"))
        layers[("top", "bottom")[number % 2]].put(f"k{number}/x", number)
    for number, recorder in enumerate(recorders):
        recorder.wait_state({f"k{number}/x": str(number).encode()})
        assert len(recorder.entries) == 1


def test_only_what_is_watched_is_read(layers):
    layers["bottom"].put_many({"a": 1, "other": 2})
    laid = layers.overlay()
    recorder = Recorder(laid, "a")
    layers["top"].put("a", 2)
    recorder.wait_state({"a": b"2"})
    table = laid._source._following.table
    assert table.held(2, "a") is not None
    assert table.held(2, "other") is None


def test_the_last_watcher_releases_the_layers(layers):
    laid = layers.overlay()
    recorder = Recorder(laid)
    recorder.wait_ready()
    for spy in layers.spies.values():
        assert spy.waiting.wait(TIMEOUT)
    recorder.dispose()
    for spy in layers.spies.values():
        assert spy.released.wait(TIMEOUT)
    assert laid._source._following is None


def test_a_cursor_outlives_the_overlay(tmp_path):
    urls = (f"sqlite:{tmp_path}/above.db", f"sqlite:{tmp_path}/below.db")
    with overlay(*urls) as laid, datastream.open(urls[1]) as below:
        below.put_many({"a": "below", "b": "below", "c": "below", "d": "below"})
        laid["a"] = "above"
        first = Recorder(laid)
        first.wait(lambda r: len(r.state) == 4)
        laid["e"] = "above"
        first.wait(lambda r: len(r.state) == 5)
    with datastream.open(urls[1]) as below, datastream.open(urls[0]) as above:
        below.put("a", "hidden")
        below.put("b", "changed")
        below.delete("c")
        above.delete("e")
        above.put("transient", 1)
        above.delete("transient")
    with overlay(*urls) as laid:
        resumed = Recorder(laid, since=first.cursor, had=first.state)
        resumed.wait_ready()
        assert not resumed.batches[0].reset
        assert {e.key: e.value for e in resumed.batches[0]} == {
            "b": b"changed",
            "c": b"",
            "e": b"",
        }
        laid["d"] = "above"
        resumed.wait(lambda r: r.state.get("d") == b"above")


@pytest.mark.parametrize("resume", ["while others watch", "after nobody did", "elsewhere"])
def test_what_is_again_as_it_was_at_a_cursor_is_not_told_again(layers, resume):
    """What was put above and removed shows what is below with the revision it had."""
    layers["bottom"].put_many({"back": 0, "other": 0})
    laid = layers.overlay()
    recorder = Recorder(laid)
    await_first_poll(laid)
    layers["middle"].put("start", 1)
    recorder.wait(lambda r: "start" in r.state)
    cursor, state = recorder.cursor, dict(recorder.state)
    layers["top"].put_many({"back": 1, "other": 1})
    layers["top"].delete("back")
    layers["top"].put("other", 2)
    recorder.wait(lambda r: r.state["other"] == b"2")
    if resume != "while others watch":
        recorder.dispose()
        eventually(lambda: laid._source._following is None, "the layers are released")
    again = layers.overlay() if resume == "elsewhere" else laid
    resumed = Recorder(again, since=cursor, had=state)
    assert [(e.key, e.value) for e in resumed.batches[0].entries] == [("other", b"2")]
    layers["top"].put("back", 3)
    resumed.wait_state({"start": b"1", "back": b"3", "other": b"2"})


def test_what_came_and_went_while_one_resumed_across_tables_is_not_told(layers, monkeypatch):
    """One layer tells of the key, another has it only after it was asked."""
    laid = layers.overlay()
    first = Recorder(laid)
    first.dispose()
    Recorder(laid)
    await_first_poll(laid)
    layers["top"]["key"] = 1
    changes, resumed = Upstream.changes, Table.resumed

    def ask(upstream, *args):
        reading = changes(upstream, *args)
        if upstream.store is layers["bottom"]:
            layers["bottom"]["key"] = 2
        return reading

    def resume(*args, **kwargs):
        reading = resumed(*args, **kwargs)
        for name in ("top", "bottom"):
            layers[name].delete("key", missing_ok=True)
        return reading

    monkeypatch.setattr(Upstream, "changes", ask)
    monkeypatch.setattr(Table, "resumed", resume)
    again = Recorder(laid, since=first.cursor)
    assert [list(batch) for batch in again.batches] == [[]]


def test_a_cursor_across_layers_that_were_swapped_is_reset(tmp_path):
    urls = (f"sqlite:{tmp_path}/above.db", f"sqlite:{tmp_path}/below.db")
    with overlay(*urls) as laid:
        laid["a"] = 1
        first = Recorder(laid)
        first.wait_ready()
    shutil.copy(tmp_path / "below.db", tmp_path / "other.db")
    (tmp_path / "other.db").replace(tmp_path / "above.db")
    with overlay(*urls) as laid:
        laid["b"] = 2
        resumed = Recorder(laid, since=first.cursor)
        resumed.wait_state({"b": b"2"})
        assert resumed.batches[0].reset


def test_a_layer_that_is_empty_for_no_reason_when_it_is_followed(layers):
    """Between the read that a watch begins with, and the next poll."""
    layers["bottom"].put_many({"k": "bottom", "other": 1})
    layers["top"].put("t", 1)
    laid = layers.overlay()
    spy = layers.spies["bottom"]
    state = laid._source.read(Selection(), None)
    original, asked = spy.read, []

    def empty_and_then_away(selection, since):
        asked.append(since)
        if len(asked) == 1:
            return Reading((), "nothing:0", complete=True)
        raise SourceUnavailable("pulled the plug")

    spy.read = empty_and_then_away
    reading = laid._source.read(Selection(), state.position)
    assert len(asked) > 1, "it was looked at once only"
    assert not any(entry.operation is Operation.DELETE for entry in reading.entries)
    assert set(laid.snapshot()) == {"k", "other", "t"}
    spy.read = original
    laid._source.release()


def test_refresh_reaches_the_layers(monkeypatch):
    monkeypatch.setenv("DATASTREAM_TEST_DB__URL", "one")
    with datastream.open("memory:") as base, overlay("env:DATASTREAM_TEST_", base) as laid:
        base["db/url"] = "base"
        recorder = Recorder(laid)
        recorder.wait_state({"db/url": b"one"})
        os.environ["DATASTREAM_TEST_DB__URL"] = "two"
        laid.refresh()
        recorder.wait_state({"db/url": b"two"})
        del os.environ["DATASTREAM_TEST_DB__URL"]
        laid.refresh()
        recorder.wait_state({"db/url": b"base"})


def test_overlays_lie_over_each_other(layers):
    inner = overlay(layers["middle"], layers["bottom"])
    layers.opened.insert(0, inner)
    outer = overlay(layers["top"], inner)
    layers.opened.insert(0, outer)
    layers["bottom"].put("k", "bottom")
    recorder = Recorder(outer)
    recorder.wait_state({"k": b"bottom"})
    layers["middle"].put("k", "middle")
    recorder.wait_state({"k": b"middle"})
    outer["k"] = "top"
    recorder.wait_state({"k": b"top"})
    layers.fail("bottom")
    eventually(lambda: outer.status.current.state is State.STALE, "trouble goes up")
    assert "layer bottom" in str(outer.status.current.error)


def test_a_hanging_layer_holds_up_no_change_of_the_others(layers):
    laid = layers.overlay()
    layers["bottom"].put("k", 1)
    recorder = Recorder(laid)
    recorder.wait_state({"k": b"1"})
    # Once that is told, all layers are followed, and were asked for what came before.
    layers["middle"].put("m", 0)
    recorder.wait_state({"k": b"1", "m": b"0"})
    spy = layers.spies["bottom"]
    assert spy.waiting.wait(TIMEOUT)
    spy.hanging = threading.Event()
    try:
        layers["bottom"].refresh()
        assert spy.hung.wait(TIMEOUT)
        layers["middle"].put("m", 1)
        recorder.wait_state({"k": b"1", "m": b"1"})
        laid["t"] = 1
        recorder.wait_state({"k": b"1", "m": b"1", "t": b"1"})
    finally:
        hanging, spy.hanging = spy.hanging, None
        hanging.set()


def test_a_change_of_a_layer_needs_no_poll(layers, monkeypatch):
    """The thread that brings it to the layer's watchers brings it to those of the overlay."""
    layers["bottom"].put_many({"k": 1, "m": 1})
    laid = layers.overlay()
    outer = overlay(laid)
    layers.opened.append(outer)
    recorder, above = Recorder(laid), Recorder(outer)
    is_over = threading.Event()

    def held_up(read):
        def reads(*args):
            assert is_over.wait(TIMEOUT)
            return read(*args)

        return reads

    # Both before either is held up: that of the outer one reads the inner one.
    await_first_poll(laid)
    await_first_poll(outer)
    for overlaid in (laid, outer):
        monkeypatch.setattr(overlaid._source, "read", held_up(overlaid._source.read))
    try:
        layers["bottom"].put_many({"k": 2, "m": 2})
        layers["top"].put("k", "above")
        layers["bottom"].delete("k")
        layers["top"].delete("k")
        for one in (recorder, above):
            one.wait_state({"m": b"2"})
            assert [len(batch.entries) for batch in one.batches[1:]] == [2, 1, 1]
    finally:
        is_over.set()


def await_first_poll(laid):
    """Until the layers are followed, and the watchers are where the table is."""
    source = laid._source

    def is_done():
        following = source._following
        return following and laid._core._publisher.position == following.table.mark()[0]

    eventually(is_done, "the first poll is over")


def test_who_changed_what_comes_along(tmp_path):
    Repo.init(tmp_path / "repository", mkdir=True).close()
    with (
        datastream.open("memory:") as top,
        overlay(top, f"git:{tmp_path}/repository") as laid,
        datastream.open(f"git:{tmp_path}/repository") as git,
    ):
        recorder = Recorder(laid)
        eventually(lambda: laid._source._following is not None, "the layers are followed")
        git.put("k", 1, message="why", author="Ann <ann@example.org>")
        recorder.wait_state({"k": b"1"})
        batch = recorder.batches[-1]
        assert (batch.message.strip(), batch.author) == ("why", "Ann <ann@example.org>")


def test_who_changed_what_before_the_first_poll_comes_along(tmp_path):
    Repo.init(tmp_path / "repository", mkdir=True).close()
    everything = Union(NOTHING, NOTHING, NOTHING, lambda _: True)
    with (
        datastream.open(f"git:{tmp_path}/repository") as git,
        overlay("env:LAYERS_TEST_", f"sqlite:{tmp_path}/local.db", git) as laid,
    ):
        source = laid._source
        before = source.read(Selection(), None).position
        git.put("k", 1, message="why", author="Ann <ann@example.org>")
        first = source.read(everything, before)
        assert [entry.key for entry in first.entries] == ["k"]
        assert (first.message.strip(), first.author) == ("why", "Ann <ann@example.org>")
        git.put("k", 2, author="Bob <bob@example.org>")
        assert source.read(everything, first.position).author == "Bob <bob@example.org>"


def test_two_changes_before_the_first_poll_have_no_one_author(tmp_path):
    Repo.init(tmp_path / "repository", mkdir=True).close()
    everything = Union(NOTHING, NOTHING, NOTHING, lambda _: True)
    with (
        datastream.open(f"git:{tmp_path}/repository") as git,
        datastream.open("memory:") as top,
        overlay(top, git) as laid,
    ):
        before = laid._source.read(Selection(), None).position
        git.put("k", 1, message="why", author="Ann <ann@example.org>")
        top["other"] = 1
        first = laid._source.read(everything, before)
        assert {entry.key for entry in first.entries} == {"k", "other"}
        assert (first.message, first.author) == ("", "")


# Across processes and crowds.


def test_a_layer_behind_grpc_goes_and_comes_back(layers):
    layers["bottom"].put_many({"k": "remote", "other": 1})
    server = datastream_grpc.serve(layers["bottom"], "127.0.0.1:0")
    address = server.address
    with datastream.open("memory:") as top, overlay(top, f"grpc://{address}") as laid:
        recorder = Recorder(laid)
        recorder.wait_state({"k": b"remote", "other": b"1"})
        layers["bottom"].put("k", "again")
        recorder.wait_state({"k": b"again", "other": b"1"})
        assert Recorder(laid).state == recorder.state
        server.stop()
        eventually(lambda: laid.status.current.state is State.STALE, "the server is away")
        assert address in str(laid.status.current.error)
        top["k"] = "top"
        recorder.wait_state({"k": b"top", "other": b"1"})
        layers["bottom"].put("other", 2)
        server = datastream_grpc.serve(layers["bottom"], address)
        try:
            laid.refresh()
            recorder.wait_state({"k": b"top", "other": b"2"})
            del top["k"]
            recorder.wait_state({"k": b"again", "other": b"2"})
            eventually(lambda: laid.status.current.state is State.READY, "all is well again")
        finally:
            server.stop()


def test_two_event_loops_follow_one_overlay(layers):
    laid = layers.overlay()
    layers["bottom"].put("k", 0)
    ready = threading.Barrier(3)

    def follow():
        async def values():
            seen = []
            async for change in laid.awatch_values("k"):
                seen.append(change.new)
                if len(seen) == 1:
                    await asyncio.to_thread(ready.wait, TIMEOUT)
                if change.new == 9:
                    break
            return seen

        return asyncio.run(asyncio.wait_for(values(), TIMEOUT))

    def write():
        ready.wait(TIMEOUT)
        for number in range(1, 10):
            layers[("bottom", "middle")[number % 2]].put("k", number)

    one, other, _ = together(follow, follow, write)
    for seen in (one, other):
        assert (seen[0], seen[-1]) == (0, 9)
        assert 8 not in seen, "what is hidden must not show"


def test_in_a_child_process_the_overlay_is_closed(layers):
    layers["bottom"].put("k", 1)
    laid = layers.overlay()
    recorder = Recorder(laid)
    recorder.wait_ready()
    with warnings.catch_warnings():
        # Python warns of threads; what happens to them is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            laid["k"]
        except datastream.StoreClosed as error:
            os._exit(0 if "fork" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    layers["top"].put("k", 2)
    recorder.wait_state({"k": b"2"})


def test_many_watchers_of_an_overlay_follow_each_layer_once(layers):
    laid = layers.overlay()
    layers["bottom"].put_many({f"k{n}": n for n in range(100)})
    recorders = [Recorder(laid, f"k{n % 100}") for n in range(200)]
    layers["top"].put_many({f"k{n}": n + 1 for n in range(100)})
    for number, recorder in enumerate(recorders):
        recorder.wait_state({f"k{number % 100}": str(number % 100 + 1).encode()})
    assert len(laid._source._following._followed) == 3
    for spy in layers.spies.values():
        assert len(list(layers[spy_name(layers, spy)]._core._publisher.routes.all())) == 1


def spy_name(layers, spy):
    return next(name for name, other in layers.spies.items() if other is spy)


@pytest.mark.parametrize(
    "count", [300, pytest.param(300_000, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])]
)
def test_changes_of_all_layers_at_once(layers, count):
    """Each layer is written by a thread of its own; in the end the top one shows."""
    laid = layers.overlay()
    recorders = [Recorder(laid), Recorder(laid, "k0", "k1")]

    def write(name):
        for number in range(count // 3):
            layers[name].put(f"k{number % 10}", f"{name} {number}")
            if number % 7 == 0:
                layers[name].delete(f"k{number % 10}")

    together(*(lambda name=name: write(name) for name in layers.stores))
    laid.put("end", "end")
    merged = {}
    for name in ("bottom", "middle", "top"):
        merged |= values(layers[name])
    recorders[0].wait_state({**merged, "end": b"end"})
    recorders[1].wait_state({key: merged[key] for key in ("k0", "k1") if key in merged})
    last = {}
    for entry in recorders[0].entries:
        assert last.get(entry.key) != (entry.revision, entry.operation), "delivered twice"
        last[entry.key] = (entry.revision, entry.operation)


@pytest.mark.parametrize("position", [0, 1])
def test_a_half_saved_document_among_the_layers(tmp_path, position):
    path = tmp_path / "s.toml"
    path.write_text('a = "doc"\nb = "doc"\n')
    base = datastream.open("memory:")
    base.put_many({"b": "base", "c": "base"})
    stores = [base, base]
    stores[position] = f"file:{path}"
    with overlay(*stores) as laid:
        recorder = Recorder(laid)
        recorder.wait(lambda r: len(r.state) == 3)
        before = recorder.state
        path.write_text('a = "aga')
        eventually(lambda: laid.status.current.state is State.STALE, "the document is in trouble")
        assert str(path) in str(laid.status.current.error)
        base.put("d", "new")
        recorder.wait_state({**before, "d": b"new"})
        path.write_text('a = "again"\nb = "doc"\n')
        recorder.wait_state({**before, "d": b"new", "a": b"again"})
        eventually(lambda: laid.status.current.state is State.READY, "the trouble is over")
        assert not any(e.operation is Operation.DELETE for e in recorder.live)
    base.close()


def test_a_layer_of_which_nothing_can_be_read_is_no_trouble_of_the_others(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("bad", "1" * 50)
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"1" * 50, b"2" * 50))
    below = datastream.open("memory:")
    below["a"] = 1
    with datastream.overlay(f"zip:{tmp_path / 'a.zip'}", below) as store:
        assert dict(store) == {"a": 1}
        Recorder(store).wait_state({"a": b"1"})
        assert "'bad'" in store.status.current.degraded
    below.close()


def year(number):
    return datetime(number, 1, 1, tzinfo=UTC)


@pytest.fixture
def two_repositories(tmp_path):
    """Two git layers: each holds "k" in turn."""
    for name in ("above", "below"):
        Repo.init(tmp_path / name, mkdir=True).close()
    with (
        datastream.open(f"git:{tmp_path}/above") as above,
        datastream.open(f"git:{tmp_path}/below") as below,
        overlay(above, below) as laid,
    ):
        below.put("k", 1, updated_at=year(2020))
        above.put("other", 1, updated_at=year(2020))
        below.put("k", 2, updated_at=year(2021))
        above.put("k", 3, updated_at=year(2022))
        above.put("k", 4, updated_at=year(2023))
        yield above, below, laid


def test_the_layers_as_they_were_are_laid_over_each_other(two_repositories):
    above, _, laid = two_repositories
    assert Feature.AT in laid.features
    with laid.at(year(2021)) as past, laid.at("2022-06-01T00:00:00Z") as later:
        assert (dict(past), dict(later)) == ({"k": 2, "other": 1}, {"k": 3, "other": 1})
        assert [held.entry.value for held in later.explain("k")] == [b"3", b"2"]
        assert later.layers == laid.layers
        with pytest.raises(ReadOnly):
            later["k"] = 5
    with pytest.raises(DatastreamError, match=r"layer git:.*no commit as old"):
        laid.at(year(2000))
    with pytest.raises(InvalidValue, match="time zone"):
        laid.at(datetime(2021, 1, 1))
    with overlay("memory:", above) as mixed, pytest.raises(Unsupported, match=r"memory: cannot"):
        mixed.at(year(2021))


def test_a_history_is_that_of_the_layer_that_decides(two_repositories):
    above, below, laid = two_repositories

    def past():
        return [revision.entry.value for revision in laid.history("k")]

    assert past() == [b"4", b"3"]
    laid.delete("k", hide=True)
    assert past() == [b"", b"4", b"3"]
    assert next(laid.history("k")).entry.operation is Operation.DELETE
    del above["k"]
    assert past() == [b"2", b"1"]
    del below["k"]
    # Nobody holds it: the first that ever did, whose tombstone was one of its revisions.
    assert past() == [b"", b"", b"4", b"3"]
    assert list(laid.history("never")) == []


def test_a_layer_that_decides_and_keeps_no_past_says_so(two_repositories):
    above, _, _ = two_repositories
    with overlay("memory:", above) as laid:
        laid["mine"] = 1
        assert [revision.entry.value for revision in laid.history("k")] == [b"4", b"3"]
        with pytest.raises(Unsupported, match="memory: cannot go back"):
            next(laid.history("mine"))
    with overlay("memory:") as laid, pytest.raises(Unsupported, match="no layer of"):
        laid.history("k")


def test_layers_of_layers_show_what_was_acknowledged_below_them(tmp_path):
    url = f"sqlite:{tmp_path}/below.db"
    with (
        datastream.open(url) as other,
        datastream.open(url) as below,
        overlay("memory:", below) as inner,
        overlay("memory:", inner) as outer,
    ):
        recorder = Recorder(outer, "a")
        recorder.wait_ready()
        for number in range(10):
            # Sooner than anybody looks at the file.
            other["a"] = number
            assert outer.snapshot("a")["a"].decode() == number
            assert Recorder(outer, "a").state == {"a": b"%d" % number}
