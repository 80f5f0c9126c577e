"""What the readings of a directory say since a position: nothing is lost, however they overlap."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest

from datastream import DatastreamError, SourceUnavailable
from datastream.entry import Operation
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.files import FilesSource
from datastream.sources.files import watcher as _watcher
from datastream.sources.files.staging import LOCK_TIMEOUT, StagingArea

ALL = Selection()
PATIENCE = 30.0
"""Seconds after which a change that was to be seen counts as lost."""


@pytest.fixture
def source(root):
    source = FilesSource(root)
    yield source
    source.close()


def truth(root):
    """What any program finds there."""
    found = {}
    for path in root.rglob("*"):
        with suppress(OSError):
            if path.is_file() and ".datastream" not in path.parts:
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def in_thread(function, *args):
    """Call it as another reader than the poller."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(function(*args)))
    thread.start()
    thread.join(PATIENCE)
    assert answer, "it did not return"
    return answer[0]


class Watchers:
    """What a store makes of readings: takes those that start where it is, drops all others."""

    def __init__(self, source):
        reading = source.read(ALL, None)
        self.source = source
        self.state = {}
        self.position = reading.position
        self.version = 0
        self.past = deque([(self.position, self.apply({}, reading))], maxlen=8)
        self.state = dict(self.past[0][1])
        # Which thread polls is known from its first wait on.
        self.publish(self.version, source.read(ALL, self.position), self.position)

    def apply(self, state, reading):
        state = {} if reading.complete else dict(state)
        loaded = reading.load(reading.entries) if reading.load else reading.entries
        for entry in loaded:
            if entry.operation is Operation.DELETE:
                state.pop(entry.key, None)
            else:
                state[entry.key] = entry.value
        return state

    def publish(self, version, reading, since):
        if since != self.position or version != self.version:
            return
        self._move(self.apply(self.state, reading), reading.position)

    def write(self, *writes):
        written = self.source.write(writes)
        self.version += 1
        assert written.since is None
        state = dict(self.state)
        for entry in written.entries:
            if entry.operation is Operation.DELETE:
                state.pop(entry.key, None)
            else:
                state[entry.key] = entry.value
        self._move(state, written.position)

    def _move(self, state, position):
        self.state, self.position = state, position
        self.past.append((position, state))

    def poll(self):
        self.source.wait(PATIENCE)
        since, version = self.position, self.version
        self.publish(version, self.source.read(ALL, since), since)

    def follow(self, root):
        """Poll until nothing is missing; each wait has to be ended by a notification."""
        until = time.monotonic() + PATIENCE
        while self.state != truth(root):
            assert time.monotonic() < until, f"lost: {self.state} is not {truth(root)}"
            self.poll()


KEYS = ("a", "b", "d/x", "d/y", "e/f/z")


def write_beside(chance, root):
    """What another program may do."""
    path = root / chance.choice(KEYS)
    what = chance.randrange(6)
    with suppress(OSError):
        if what == 0:
            path.unlink(missing_ok=True)
        elif what == 1:
            shutil.rmtree(path.parent) if path.parent != root else path.unlink()
        elif what == 2:
            draft = root.parent / f"draft-{chance.random()}"
            draft.write_bytes(b"%d" % chance.randrange(5))
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%d" % chance.randrange(5))


def write_ours(chance, watchers):
    keys = chance.sample(KEYS, chance.randrange(1, 3))
    value = None if chance.random() < 0.3 else b"%d" % chance.randrange(5)
    with suppress(DatastreamError):
        watchers.write(*(Write(key, value) for key in keys))


@pytest.mark.parametrize("seed", range(8))
def test_no_change_is_lost_however_readings_and_writes_overlap(root, source, monkeypatch, seed):
    # No look at everything comes to the rescue.
    monkeypatch.setattr(_watcher, "LOOK_AGAIN", 1000.0)
    chance = random.Random(seed)
    for key in KEYS[:3]:
        (root / key).parent.mkdir(exist_ok=True)
        (root / key).write_bytes(b"first")
    watchers = Watchers(source)
    for _ in range(60):
        what = chance.randrange(9)
        if what < 2:
            write_beside(chance, root)
        elif what == 2:
            write_ours(chance, watchers)
        elif what == 3:
            write_beside(chance, root)
            if watchers.state != truth(root):
                watchers.poll()
        elif what == 4:
            # A reading that is dropped because a write was faster.
            since, version = watchers.position, watchers.version
            reading = source.read(ALL, since)
            write_ours(chance, watchers)
            watchers.publish(version, reading, since)
        elif what == 5:
            # A reading that is dropped for no reason.
            source.read(ALL, watchers.position)
        elif what == 6:
            # A newcomer.
            reading = in_thread(source.read, ALL, None)
            assert watchers.apply({}, reading) == truth(root)
        elif what == 7:
            # One that resumes, also from where it once was.
            position, state = chance.choice(watchers.past)
            reading = in_thread(source.read, ALL, position)
            assert watchers.apply(state, reading) == truth(root)
        else:
            # A catch-up of another thread, which is taken.
            since, version = watchers.position, watchers.version
            watchers.publish(version, in_thread(source.read, ALL, since), since)
        if chance.random() < 0.3:
            watchers.follow(root)
    watchers.follow(root)
    source.release()
    assert watchers.apply({}, source.read(ALL, None)) == truth(root)


def test_what_was_acknowledged_elsewhere_is_in_every_resume(root, source):
    with_cursor = Watchers(source)
    source.wait(0)
    other = FilesSource(root)
    for number in range(100):
        other.write([Write("k", b"%d" % number)])
        since = with_cursor.position
        reading = in_thread(source.read, ALL, since)
        assert with_cursor.apply(with_cursor.state, reading) == {"k": b"%d" % number}
        with_cursor.publish(with_cursor.version, reading, since)
        if number % 3 == 0:
            with_cursor.poll()
    other.close()


def test_files_that_swapped_their_contents_differ(root, source):
    for number in range(20):
        one, other = root / f"{number}", root / f"{number}'"
        one.write_text(f"one {number}")
        other.write_text(f"other {number}")
        before = source.read(ALL, None)
        one.rename(root / ".aside")
        other.rename(one)
        (root / ".aside").rename(other)
        news = source.read(ALL, before.position)
        assert news.position != before.position, number
        one.unlink()
        other.unlink()


def test_a_resume_from_the_last_look_is_told_what_differs(root, source):
    (root / "a").write_text("1")
    (root / "b").write_text("1")
    watchers = Watchers(source)
    (root / "a").write_text("2")
    watchers.follow(root)
    assert in_thread(source.read, ALL, watchers.position).complete is False
    (root / "b").unlink()
    (root / "c").write_text("3")
    reading = in_thread(source.read, ALL, watchers.position)
    assert reading.complete is False
    assert [(e.key, e.operation.value) for e in reading.entries] == [("b", "DELETE"), ("c", "PUT")]
    part = in_thread(source.read, Selection.of("c"), watchers.position)
    assert [entry.key for entry in part.entries] == ["c"]


def test_a_change_behind_a_link_on_the_way_to_what_is_selected(root, source):
    (root / "real").mkdir()
    (root / "real" / "x").write_text("1")
    (root / "link").symlink_to("real")
    selection = Selection.of("link/")
    position = source.read(selection, source.read(selection, None).position).position
    for number in range(3):
        (root / "real" / "x").write_text(f"{number} new")
        source.wait(PATIENCE)
        reading = source.read(selection, position)
        assert [e.value for e in reading.load(reading.entries)] == [b"%d new" % number]
        position = reading.position


# --- batches of several files ---


def test_a_batch_between_listing_and_loading_is_never_seen_in_halves(root, source):
    keys = ("a/k1", "a/k2", "top")
    other = FilesSource(root)
    other.write([Write(key, b"old") for key in keys])
    old = time.time() - 60
    for key in keys:
        os.utime(root / key, (old, old))
    time.sleep(0.1)  # until their times are believed
    watchers = Watchers(source)
    other.write([Write("top", b"one")])
    snapshot = source.read(ALL, None)
    polled = source.read(ALL, "from elsewhere")
    other.write([Write(key, b"two") for key in keys])
    assert watchers.apply({}, snapshot) == {"a/k1": b"old", "a/k2": b"old", "top": b"one"}
    with pytest.raises(SourceUnavailable, match="swapped"):
        polled.load(polled.entries)
    watchers.follow(root)
    assert set(watchers.state.values()) == {b"two"}
    other.close()


@pytest.mark.chaos
def test_readers_never_see_half_a_batch_while_a_writer_writes_all_the_time(root, source):
    keys = ("a", "d/b", "d/e/c")
    other = FilesSource(root)
    other.write([Write(key, b"0") for key in keys])
    problems, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                values = {entry.value for entry in source.read(ALL, None).entries}
            except SourceUnavailable as error:
                problems.append(error)
            else:
                if len(values) != 1:
                    problems.append(values)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(150):
        other.write([Write(key, b"%d" % number) for key in keys])
    done.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not problems
    other.close()


def test_readers_do_not_keep_a_writer_waiting(root, source):
    """A look that takes long holds nothing that a write or a read needs."""
    (root / "a").write_text("1")
    source.write([Write("b", b"1")])
    looking, go = threading.Event(), threading.Event()
    real = source._tree.was_read

    def slow(prefix):
        real(prefix)
        if threading.current_thread() is not threading.main_thread():
            looking.set()
            assert go.wait(PATIENCE)

    source._tree.was_read = slow
    reader = threading.Thread(target=source.read, args=(ALL, None))
    reader.start()
    assert looking.wait(PATIENCE)
    began = time.monotonic()
    source.write([Write("a", b"2")])
    source.write([Write("a", b"3"), Write("b", b"3")])
    assert source.get("a").value == b"3"
    assert {entry.value for entry in source.read(ALL, None).entries} == {b"3"}
    assert time.monotonic() - began < PATIENCE / 2
    assert reader.is_alive()
    go.set()
    reader.join(PATIENCE)


def test_one_key_is_read_beside_a_writer_that_holds_the_lock(root, source):
    source.write([Write("a", b"1"), Write("b", b"1")])
    with source._tree.hold() as held, StagingArea(held).exclusive():
        # As while a batch is being written.
        (root / ".datastream" / "journal").write_text("[]")
        began = time.monotonic()
        assert source.get("a").value == b"1"
        assert time.monotonic() - began < LOCK_TIMEOUT - 2
    assert source.get("a").value == b"1"
    assert not (root / ".datastream" / "journal").exists()


# --- the directory moves ---


def test_a_writer_never_makes_a_moved_directory_anew(root, tmp_path):
    (root / "keep").write_text("1")
    sources = [FilesSource(root) for _ in range(2)]
    done, acknowledged = threading.Event(), []

    def write(source, me):
        number = 0
        while not done.is_set():
            number += 1
            with suppress(DatastreamError, OSError):
                source.write([Write(f"a/b/k{me}-{number % 5}", b"%d" % number)])
                acknowledged.append((me, number))

    threads = [threading.Thread(target=write, args=pair[::-1]) for pair in enumerate(sources)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        time.sleep(0.02)
        root.rename(tmp_path / "away")
        time.sleep(0.02)
        assert not root.exists(), "made anew"
        (tmp_path / "away").rename(root)
    done.set()
    for thread in threads:
        thread.join(PATIENCE)
    newest = {}
    for me, number in acknowledged:
        newest[f"a/b/k{me}-{number % 5}"] = number
    found = truth(root)
    assert all(int(found[key]) >= number for key, number in newest.items())
    for source in sources:
        source.close()


# --- directories that cannot be watched ---


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_is_no_utf8_does_not_keep_the_store_busy(root, caplog, kind):
    for number in range(20):
        (root / f"k{number}").mkdir()
        (root / f"k{number}" / "a").write_text("1")
    odd = Path(os.fsdecode(os.fsencode(root) + b"/d\xff"))
    odd.write_text("x") if kind == "file" else odd.mkdir()
    source = FilesSource(root, interval=0.2)
    try:
        position = source.read(ALL, source.read(ALL, None).position).position
        count, until = 0, time.monotonic() + 3
        while (left := until - time.monotonic()) > 0:
            source.wait(left)
            position = source.read(ALL, position).position
            count += 1
        assert count < 40
        assert [record.message.count("is no UTF-8") for record in caplog.records] == [1]
        assert ("polling every 0.2 s" in source.health.degraded) == (kind == "directory")
        (root / "k1" / "a").write_text("2")
        for _ in range(10):
            source.wait(1)
            reading = source.read(ALL, position)
            if reading.entries:
                break
        assert "k1/a" in {entry.key for entry in reading.entries}
    finally:
        source.close()


# --- many threads ---


@pytest.mark.chaos
def test_many_threads_mix_everything(root, source):
    """Fifty threads; the values of each key only grow, and so does what anybody reads of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    problems, done = [], threading.Event()

    def guarded(function):
        def run(number):
            chance = random.Random(number)
            try:
                while not done.is_set():
                    function(chance)
            except Exception as error:
                problems.append(error)

        return run

    newest = dict.fromkeys(KEYS, 0)
    locks = {key: threading.Lock() for key in KEYS}

    def write(chance):
        key = chance.choice(KEYS)
        with locks[key]:
            value = newest[key] + 1
            source.write([Write(key, b"%d" % value)])
            newest[key] = value

    def read_one(chance):
        key = chance.choice(KEYS)
        least = newest[key]
        entry = source.get(key)
        assert (int(entry.value) if entry else 0) >= least

    def read_all(chance):
        least = dict(newest)
        reading = source.read(ALL, chance.choice([None, "elsewhere"]))
        entries = reading.load(reading.entries) if reading.load else reading.entries
        found = {entry.key: int(entry.value) for entry in entries if entry.value}
        assert all(found.get(key, 0) >= number for key, number in least.items())
        source.capabilities()

    def poll(chance):
        position = source.read(ALL, None).position
        for _ in range(20):
            source.wait(0.05)
            position = source.read(ALL, position).position
        source.release()

    work = [write] * 4 + [read_one] * 8 + [read_all] * 4 + [poll]
    threads = [
        threading.Thread(target=guarded(one), args=(number,)) for number, one in enumerate(work)
    ]
    try:
        for thread in threads:
            thread.start()
        time.sleep(4)
        done.set()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(before)
    assert not problems
    assert not any(thread.is_alive() for thread in threads)
    assert sum(newest.values()) > 0


def test_positions_of_parts_and_of_the_whole_are_the_same(root, source):
    """A cursor is good as long as the state is the one that it stands for."""
    (root / "a").write_text("1")
    watchers = Watchers(source)
    (root / "b").write_text("1")
    watchers.follow(root)
    position = watchers.position
    assert in_thread(source.read, ALL, None).position == position
    time.sleep(0.2)
    again = in_thread(source.read, ALL, position)
    assert (again.entries, again.position, again.complete) == ((), position, False)
    (root / "b").write_text("2")
    (root / "c").write_text("2")
    watchers.follow(root)
    (root / "c").unlink()
    (root / "b").write_text("1")
    watchers.follow(root)
    assert watchers.position == position
