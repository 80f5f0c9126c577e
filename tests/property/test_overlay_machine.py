"""Random histories of an overlay whose layers fail, come back and are swapped, against dicts."""

import secrets
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from datastream import (
    KeyNotFound,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    State,
    Store,
    overlay,
)
from datastream._documents import open_document
from datastream._overlay.tombstone import is_tombstone
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Spy
from datastream.testing._tools import eventually
from datastream.url import parse
from tests.property.machine import SELECTIONS, Follower, batches, keys, search, searched, values

LAYERS = 3
WRITTEN = 0
indices = st.sampled_from(range(LAYERS))
HIDDEN = object()


class OverlayMachine(RuleBasedStateMachine):
    """Three layers, each with a dict of what it holds, and one of what was last heard of it."""

    followers = Bundle("followers")
    left = Bundle("left")

    def __init__(self):
        super().__init__()
        self.held = [{} for _ in range(LAYERS)]
        # What those who watch know: of a layer that is away, what it held then.
        self.heard = [{} for _ in range(LAYERS)]
        self.away = set()
        self.spies = [Spy(source) for source in self.sources()]
        for spy in self.spies:
            # Else values are read without the calls that fail.
            spy.instant = False
        self.layers = [Store(spy, name=f"layer-{n}") for n, spy in enumerate(self.spies)]
        self.elsewhere = [Store(source, name="elsewhere") for source in self.sources()]
        self.store = overlay(*self.layers, write=self.layers[WRITTEN])
        self.open_followers = []

    def sources(self):
        self.names = getattr(self, "names", [secrets.token_hex(8) for _ in range(LAYERS)])
        return [MemorySource(name) for name in self.names]

    @initialize()
    def somebody_watches(self):
        """So that there is a last good state from the beginning."""
        self.always = self.follow(SELECTIONS[0])

    # What happens to the layers.

    @rule(layer=indices, values=batches)
    def put_below(self, layer, values):
        self.elsewhere[layer].put_many(values)
        self.held[layer].update(values)

    @rule(layer=indices, key=keys)
    def delete_below(self, layer, key):
        self.elsewhere[layer].delete(key, missing_ok=True)
        self.held[layer].pop(key, None)

    @rule(layer=indices, key=keys)
    def hide_below(self, layer, key):
        self.elsewhere[layer].put(key, "!datastream/hidden")
        self.held[layer][key] = HIDDEN

    @rule(layer=indices)
    def fail(self, layer):
        if layer not in self.away:
            self.hear()
            self.await_watchers()
            # Also what is hidden, which no watcher sees, is to be its last good state.
            eventually(lambda: self.last_of(layer) == self.held[layer], "the layer was heard")
            self.away.add(layer)
            self.spies[layer].failure = SourceUnavailable("pulled the plug")
            self.layers[layer].refresh()

    @rule(layer=indices)
    def come_back(self, layer):
        self.spies[layer].failure = None
        self.away.discard(layer)
        self.layers[layer].refresh()

    @rule()
    def look(self):
        self.store.refresh()

    # What is done to the overlay.

    @rule(key=keys, value=values)
    def put(self, key, value):
        if not self.away:
            entry = self.store.put(key, value)
            assert entry.value == value
            self.held[WRITTEN][key] = value

    @rule(key=keys, value=values)
    def compare_and_set(self, key, value):
        if self.away:
            return
        shown = self.visible(self.held).get(key)
        with pytest.raises(RevisionConflict):
            self.store.put(key, value, expect="no such revision")
        revision = "" if shown is None else self.store.entry(key).revision
        self.store.put(key, value, expect=revision)
        self.held[WRITTEN][key] = value

    @rule(key=keys, hide=st.booleans())
    def delete(self, key, hide):
        if self.away:
            return
        own, shown = self.held[WRITTEN].get(key), self.visible(self.held).get(key)
        if shown is None:
            with pytest.raises(KeyNotFound):
                self.store.delete(key, hide=hide)
        elif hide:
            self.store.delete(key, hide=True)
            self.held[WRITTEN][key] = HIDDEN
        elif own is None:
            with pytest.raises(ReadOnly):
                self.store.delete(key)
        else:
            self.store.delete(key)
            del self.held[WRITTEN][key]

    @rule(target=followers, selection=st.sampled_from(SELECTIONS))
    def come(self, selection):
        return self.follow(selection)

    @rule(target=left, follower=consumes(followers))
    def go(self, follower):
        self.check(follower)
        follower.recorder.dispose()
        self.open_followers.remove(follower)
        return follower

    @rule(target=followers, before=consumes(left))
    def resume(self, before):
        return self.follow(before.arguments, before)

    # What has to hold.

    @invariant()
    def every_watcher_has_it(self):
        self.hear()
        self.await_watchers()

    @invariant()
    def reads_are_true(self):
        if not self.away:
            snapshot = self.store.snapshot()
            expected = self.visible(self.held)
            assert {key: entry.value for key, entry in snapshot.items()} == expected
            for key in expected:
                explained = self.store.explain(key)
                assert [h.visible for h in explained][:1] == [True]
                assert len(explained) == sum(key in held for held in self.held)

    @invariant()
    def the_status_is_true(self):
        if self.away:
            eventually(lambda: self.store.status.current.state is State.STALE, "STALE")
            named = str(self.store.status.current.error)
            eventually(lambda: any(f"layer-{n}" in named for n in self.away) or self.named(), named)
        else:
            eventually(lambda: self.store.status.current.state is State.READY, "READY")

    def named(self):
        error = str(self.store.status.current.error)
        return any(f"layer-{n}" in error for n in self.away)

    def hear(self):
        for layer in set(range(LAYERS)) - self.away:
            self.heard[layer] = dict(self.held[layer])

    def last_of(self, layer):
        following = self.store._source._following
        batch = following.table.last_of(layer) if following is not None else None
        entries = batch.entries if batch is not None else ()
        return {e.key: HIDDEN if is_tombstone(e.value) else e.value for e in entries}

    def visible(self, layers):
        merged = {}
        for held in reversed(layers):
            merged.update(held)
        return {key: value for key, value in merged.items() if value is not HIDDEN}

    def await_watchers(self):
        for follower in self.open_followers:
            self.check(follower)

    def follow(self, selection, since=None):
        follower = Follower(self, selection, since)
        if not self.away:
            follower.recorder.wait_ready()
        self.open_followers.append(follower)
        return follower

    def check(self, follower):
        recorder = follower.recorder
        if not self.away or recorder.batches:
            recorder.wait_state(follower.expected(self.visible(self.heard)))
        last = {}
        for entry in recorder.entries:
            assert follower.selection.matches(entry.key)
            assert last.get(entry.key) != (entry.revision, entry.operation), "delivered twice"
            last[entry.key] = (entry.revision, entry.operation)

    def teardown(self):
        for spy in self.spies:
            spy.failure = None
        for store in (self.store, *self.layers, *self.elsewhere):
            store.close()


class MixedMachine(OverlayMachine):
    """Memory over two SQLite files, whose tables are now and then swapped for others."""

    def sources(self):
        if not hasattr(self, "directory"):
            self.directory = Path(tempfile.mkdtemp())
            self.name = secrets.token_hex(8)
        files = [SqliteSource(self.directory / f"{number}.db") for number in (1, 2)]
        return [MemorySource(self.name), *files]

    @rule(layer=st.sampled_from((1, 2)), values=batches)
    def swap(self, layer, values):
        if layer in self.away:
            return
        path, new = self.directory / f"{layer}.db", self.directory / "new.db"
        with Store(SqliteSource(new)) as store:
            store.put_many(values)
        with sqlite3.connect(new) as db:
            db.execute("PRAGMA journal_mode = DELETE")
        db.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        new.replace(path)
        self.held[layer] = dict(values)
        for store in (self.layers[layer], self.elsewhere[layer]):
            store.refresh()
        eventually(
            lambda: {k: e.value for k, e in self.elsewhere[layer].snapshot().items()} == values,
            "the other file is seen",
        )

    def teardown(self):
        super().teardown()
        shutil.rmtree(self.directory)


class DocumentMachine(OverlayMachine):
    """A document over memory over another document; now and then an editor has saved half."""

    def sources(self):
        if not hasattr(self, "directory"):
            self.directory = Path(tempfile.mkdtemp())
            self.name = secrets.token_hex(8)
            for name in ("above.toml", "below.json"):
                (self.directory / name).write_text("{}" if name.endswith("json") else "")
        above, below = (
            open_document(parse(f"file://{self.directory}/{name}"))
            for name in ("above.toml", "below.json")
        )
        return [above, MemorySource(self.name), below]

    @rule(name=st.sampled_from(("above.toml", "below.json")))
    def save_half(self, name):
        layer = ("above.toml", None, "below.json").index(name)
        if layer in self.away:
            return
        self.hear()
        self.await_watchers()
        path = self.directory / name
        before = path.read_bytes()
        path.write_bytes(b'"half')
        stores = (self.layers[layer], self.elsewhere[layer])
        self.layers[layer].refresh()
        eventually(lambda: stores[0].status.current.state is State.STALE, "half saved")
        self.await_watchers()
        path.write_bytes(before)
        self.layers[layer].refresh()
        eventually(lambda: stores[0].status.current.state is State.READY, "saved")

    def teardown(self):
        super().teardown()
        shutil.rmtree(self.directory)


@searched((OverlayMachine, 60, 25), (MixedMachine, 20, 20), (DocumentMachine, 12, 15))
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps):
    search(machine, examples, steps)
