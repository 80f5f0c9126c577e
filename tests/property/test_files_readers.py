"""Readers of one directory beside its poller, while programs and the store itself write to it.

What a reader has after each read was there while it read; what the poller has is there when all is
quiet. A failure names its seed; threads are scheduled by the system, so that it repeats what was
done, not when.

``DATASTREAM_READERS_SECONDS=20 DATASTREAM_READERS_SEEDS=9 pytest -m chaos`` searches longer.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections import defaultdict
from contextlib import suppress
from itertools import count

import pytest

from datastream import SourceUnavailable
from datastream.entry import Operation
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.files import FilesSource
from datastream.sources.files import watcher as _watcher

SECONDS = float(os.environ.get("DATASTREAM_READERS_SECONDS", "1.5"))
SEEDS = range(int(os.environ.get("DATASTREAM_READERS_SEEDS", "2")))
PATIENCE = 30.0
KEYS = ("a", "b", "d/a", "d/b", "d/e/a", "d/e/b", "f/a", "f/e/a")
FOLDERS = ("d", "d/e", "f", "f/e")
SELECTIONS = {
    "all": Selection(),
    "keys": Selection(keys=frozenset({"a", "d/a", "d/e/a"})),
    "key": Selection(keys=frozenset({"d/e/b"})),
    "prefix": Selection(prefixes=frozenset({"d/"})),
    "deep prefix": Selection(prefixes=frozenset({"d/e/"})),
    "prefixes": Selection(prefixes=frozenset({"d/e/a", "f/"})),
    "pattern": Selection(patterns=frozenset({"*/a"})),
    "mixed": Selection(keys=frozenset({"b"}), patterns=frozenset({"d/*"})),
}


class Truth:
    """What is in the directory, and was: each content from when it may be there until it is not."""

    def __init__(self):
        self.now = {}
        self._past = defaultdict(lambda: [[0.0, None, None]])
        self._lock = threading.Lock()

    def begin(self, *states):
        """From now on it may be as in one of these, the last of which is to stay."""
        at = time.monotonic()
        with self._lock:
            for state in states:
                for key in self.now.keys() | state.keys():
                    if self.now.get(key) != state.get(key):
                        self._past[key].append([at, None, state.get(key)])
                self.now = dict(state)

    def end(self):
        """It is as the last one says."""
        at = time.monotonic()
        with self._lock:
            for past in self._past.values():
                for span in past[:-1]:
                    span[1] = span[1] or at

    def has_been(self, key, value, began):
        """Whether that was there at some time since `began`."""
        with self._lock:
            spans = self._past[key]
            return any(value == one and (end or began) >= began for _, end, one in spans)


class Directory:
    """Changes of all kinds, one after the other."""

    def __init__(self, root, chance):
        self.root, self.chance = root, chance
        self.truth = Truth()
        self.elsewhere = root.parent / "elsewhere"
        self.elsewhere.mkdir()
        self._numbers = count()

    def change(self):
        """One change of another program."""
        ways = (self.write, self.write, self.replace, self.replace, self.remove, self.remove_folder)
        self.chance.choice((*ways, self.move, self.move_away, self.swap))()

    def value(self):
        """Of few, all of one size, so that nothing but their times tells them apart."""
        return b"%d" % self.chance.randrange(4)

    def write(self):
        key, value, state = self.chance.choice(KEYS), self.value(), self.truth.now
        self._make(key)
        self.truth.begin({**state, key: b""}, {**state, key: value})
        (self.root / key).write_bytes(value)
        self.truth.end()

    def replace(self):
        key, value = self.chance.choice(KEYS), self.value()
        self._make(key)
        draft = self.elsewhere / f"{next(self._numbers)}"
        draft.write_bytes(value)
        self.truth.begin({**self.truth.now, key: value})
        draft.rename(self.root / key)
        self.truth.end()

    def remove(self):
        if self.truth.now:
            key = self.chance.choice(sorted(self.truth.now))
            self.truth.begin({k: v for k, v in self.truth.now.items() if k != key})
            (self.root / key).unlink()
            self.truth.end()

    def remove_folder(self):
        folder = self.chance.choice(FOLDERS)
        self.truth.begin(self._without(folder))
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / folder)
        self.truth.end()

    def move_away(self):
        folder = self.chance.choice(FOLDERS)
        self.truth.begin(self._without(folder))
        with suppress(FileNotFoundError):
            (self.root / folder).rename(self.elsewhere / f"{next(self._numbers)}")
        self.truth.end()

    def move(self):
        """To a name that is not taken: all keys below are others."""
        one, other = self.chance.sample(FOLDERS, 2)
        if f"{other}/".startswith(f"{one}/") or (self.root / other).exists():
            return
        if not (self.root / one).exists():
            return
        self._make(other)
        below = {k: v for k, v in self.truth.now.items() if k.startswith(f"{one}/")}
        moved = {other + key[len(one) :]: value for key, value in below.items()}
        self.truth.begin({**self._without(one), **moved})
        (self.root / one).rename(self.root / other)
        self.truth.end()

    def swap(self):
        """A directory that was made elsewhere takes the place of one."""
        folder = self.chance.choice(FOLDERS)
        draft = self.elsewhere / f"{next(self._numbers)}"
        new = {key: self.value() for key in KEYS if key.startswith(f"{folder}/")}
        for key, value in new.items():
            path = draft / key[len(folder) + 1 :]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
        self._make(folder)
        self.truth.begin(self._without(folder), {**self._without(folder), **new})
        with suppress(FileNotFoundError):
            (self.root / folder).rename(self.elsewhere / f"{next(self._numbers)}")
        draft.rename(self.root / folder)
        self.truth.end()

    def _without(self, folder):
        return {k: v for k, v in self.truth.now.items() if not k.startswith(f"{folder}/")}

    def _make(self, key):
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)


class Reader:
    """Goes from position to position, by what each read tells."""

    def __init__(self, source, selection, truth):
        self.source, self.selection, self.truth = source, selection, truth
        self.state, self.position = {}, None

    def read(self, since, state):
        """The state and position after a read; no position where it was of several moments."""
        reading = self.source.read(self.selection, since)
        entries = list(reading.load(reading.entries) if reading.load else reading.entries)
        shown = {entry.key: entry.revision for entry in reading.entries}
        assert not reading.unread
        state = {} if reading.complete else dict(state)
        for entry in entries:
            if self.selection.matches(entry.key):
                state.pop(entry.key, None)
                if entry.operation is Operation.PUT:
                    state[entry.key] = entry.value
        is_one = all(shown[entry.key] == entry.revision for entry in entries)
        return state, reading.position if is_one else None

    def step(self, since, state):
        began = time.monotonic()
        with suppress(SourceUnavailable):
            self.state, self.position = self.read(since, state)
            for key in filter(self.selection.matches, KEYS):
                value = self.state.get(key)
                assert self.truth.has_been(key, value, began), (
                    f"{key} is {value} after a read since {since}, which it was not meanwhile"
                )


class Poller(Reader):
    """The one that is notified; the store's own writes move it."""

    def __init__(self, source, selection, truth):
        super().__init__(source, selection, truth)
        self.lock = threading.Condition()
        self.version = 0
        self.state, self.position = self.read(None, {})
        # So that it is known who polls.
        source.wait(None)
        self.poll()

    def poll(self):
        with self.lock:
            version, since, state = self.version, self.position, self.state
        with suppress(SourceUnavailable):
            found = self.read(since, state)
            with self.lock:
                if version == self.version:
                    self.state, self.position = found
                    self.lock.notify_all()
                    return
        # What was read and is dropped is read again.
        self.source.wake()

    def write(self, writes, directory):
        """What the store itself does."""
        values = {write.key: write.value for write in writes}
        state = {**directory.truth.now, **values}
        state = {key: value for key, value in state.items() if value is not None}
        for write in writes:
            directory._make(write.key)
        directory.truth.begin(state)
        written = self.source.write(writes)
        directory.truth.end()
        with self.lock:
            self.version += 1
            mine = {k: v for k, v in values.items() if self.selection.matches(k)}
            state = {**self.state, **mine}
            self.state = {key: value for key, value in state.items() if value is not None}
            # Where it stood nowhere, it still stands nowhere.
            self.position = self.position and written.position
            self.lock.notify_all()

    def at(self):
        with self.lock:
            return self.position, self.state


class Run:
    """All of them at once, for a while."""

    def __init__(self, source, root, union, seed):
        self.chance = random.Random(seed)
        self.source = source
        self.directory = Directory(root, self.chance)
        self.truth = self.directory.truth
        self.union = union
        self.poller = None
        self.ends = threading.Event()
        self.errors = []

    def go(self):
        polls = threading.Event()
        threads = [threading.Thread(target=self._poll, args=(polls,))]
        threads[0].start()
        assert polls.wait(PATIENCE)
        parts = [s for s in SELECTIONS.values() if self.union in (Selection(), s)]
        for part in self.chance.sample(parts, min(3, len(parts))):
            seed = self.chance.random()
            threads.append(threading.Thread(target=self._read, args=(part, random.Random(seed))))
            threads[-1].start()
        try:
            self._change()
        finally:
            self.ends.set()
            self.source.wake()
            for thread in threads:
                thread.join(PATIENCE)
        if self.errors:
            raise self.errors[0]

    def _change(self):
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and not self.errors:
            for _ in range(self.chance.choice((1, 1, 2, 5, 20))):
                if self.chance.random() < 0.2:
                    self._write()
                else:
                    self.directory.change()
                time.sleep(self.chance.choice((0, 0, 0.001, 0.01)))
            self._settle()

    def _write(self):
        keys = self.chance.sample(KEYS, self.chance.randrange(1, 3))
        pairs = [(key, self.chance.choice((None, self.directory.value()))) for key in keys]
        self.poller.write([Write(key, value) for key, value in pairs], self.directory)

    def _settle(self):
        """Wait until the poller has what is there."""
        matches = self.union.matches
        there = {key: value for key, value in self.truth.now.items() if matches(key)}
        changed = self.poller.lock
        with changed:
            is_there = changed.wait_for(lambda: self.errors or self.poller.state == there, PATIENCE)
        assert is_there, f"lost: {self.poller.at()[1]} is not {there}"

    def _fail(self, error):
        self.errors.append(error)
        if self.poller is not None:
            with self.poller.lock:
                self.poller.lock.notify_all()

    def _poll(self, polls):
        try:
            self.poller = Poller(self.source, self.union, self.truth)
            polls.set()
            while not self.ends.is_set():
                self.source.wait(None)
                self.poller.poll()
        except Exception as error:
            self._fail(error)
            polls.set()

    def _read(self, selection, chance):
        reader = Reader(self.source, selection, self.truth)
        try:
            while not self.ends.is_set():
                since, state = reader.position, reader.state
                if chance.random() < 0.4:
                    since, state = self.poller.at()
                    state = {key: value for key, value in state.items() if selection.matches(key)}
                reader.step(since, state if since is not None else {})
        except Exception as error:
            self._fail(error)


@pytest.mark.parametrize("union", SELECTIONS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_what_any_reader_has_was_there(tmp_path, monkeypatch, union, seed):
    # No look at everything comes to the rescue.
    monkeypatch.setattr(_watcher, "LOOK_AGAIN", 1000.0)
    root = tmp_path / "root"
    root.mkdir()
    source = FilesSource(root)
    try:
        Run(source, root, SELECTIONS[union], seed).go()
    finally:
        source.close()
