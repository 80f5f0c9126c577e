"""Consumers: each change at least once, in order per key, also across restarts."""

import asyncio
import json
import os
import subprocess
import sys
import threading

import pytest
from datastream_grpc import serve

import datastream
from datastream import DatastreamError, InvalidValue, Operation, SourceUnavailable, State
from datastream._consume import file_place, running
from datastream.consume import Retry, Taken, Undeliverable
from datastream.sources.memory import MemorySource
from datastream.testing._tools import eventually

QUICK = Retry(3, 0.001, 0.002)


@pytest.fixture
def store():
    with datastream.open("memory:") as opened:
        yield opened


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


class Recorder:
    """A handler that keeps what it was called with; raises for the values in `bad`."""

    def __init__(self, *bad):
        self.bad = set(bad)
        self.entries = []

    def __call__(self, entry):
        if entry.operation is Operation.PUT and entry.decode() in self.bad:
            raise ValueError(f"no {entry.decode()}")
        self.entries.append(entry)

    @property
    def pairs(self):
        return [
            (e.key, None if e.operation is Operation.DELETE else e.decode()) for e in self.entries
        ]


def test_each_change_is_handled_in_order_and_none_of_what_was_there(store, place):
    store["old"] = 1
    seen = Recorder()
    with store.consume(seen, place=place) as consumer:
        store["a"] = 1
        store.put_many({"a": 2, "b": 3})
        del store["a"]
        assert consumer.flush(30)
    assert seen.pairs == [("a", 1), ("a", 2), ("b", 3), ("a", None)]
    assert consumer.counts.handled == 4
    assert consumer.lag == (0, 0.0)


def test_initial_handles_what_is_there_once(store, place):
    store.update({"a": 1, "b": 2})
    for expected in ([("a", 1), ("b", 2)], []):
        seen = Recorder()
        with store.consume(seen, place=place, initial=True) as consumer:
            assert consumer.flush(30)
        assert seen.pairs == expected


def test_what_happened_meanwhile_is_handled_after_a_restart(store, place):
    store.update({"gone": 1, "same": 1})
    with store.consume(Recorder(), place=place, initial=True) as consumer:
        assert consumer.flush(30)
    store.update({"new": 1, "brief": 1})
    del store["gone"], store["brief"]
    seen = Recorder()
    with store.consume(seen, place=place) as consumer:
        assert consumer.flush(30)
    assert sorted(seen.pairs, key=str) == [("gone", None), ("new", 1)]


def test_what_happened_meanwhile_comes_in_the_order_in_which_it_happened(tmp_path, place):
    keys = [f"k{number * 7 % 30}" for number in range(30)]
    with datastream.open(f"sqlite:{tmp_path}/data.db") as store:
        store["z"] = 1
        seen = Recorder()
        store.consume(seen, place=place).stop()
        for key in keys:
            store[key] = 1
        del store["z"]
        with store.consume(seen, place=place) as consumer:
            assert consumer.flush(30)
    assert [key for key, _ in seen.pairs] == [*keys, "z"]


def test_only_what_is_selected_is_handled(store, place):
    seen = Recorder()
    with store.consume(seen, "fx/", match="*.txt", exclude="fx/x*", place=place) as consumer:
        store.update({"fx/a": 1, "fx/x": 2, "b.txt": 3, "c": 4})
        assert consumer.flush(30)
    assert seen.pairs == [("fx/a", 1), ("b.txt", 3)]


def test_more_keys_selected_later_are_handled_from_their_present_state(store, place):
    store.update({"a/1": 1, "b/1": 1})
    with store.consume(Recorder(), "a/", place=place, initial=True) as consumer:
        assert consumer.flush(30)
    seen = Recorder()
    with store.consume(seen, "a/", "b/", place=place) as consumer:
        assert consumer.flush(30)
    assert seen.pairs == [("b/1", 1)]


def test_a_handler_is_called_again_and_then_the_consumer_stops_before_the_change(store, place):
    seen = Recorder(2)
    consumer = store.consume(seen, place=place, retry=QUICK)
    store.update({"a": 1})
    store.update({"a": 2})
    store.update({"a": 3})
    with pytest.raises(datastream.DatastreamError, match=r"PUT of 'a'.*3 calls.*ValueError: no 2"):
        consumer.wait(30)
    assert consumer.status.current.state is State.FAILED
    assert isinstance(consumer.status.current.error.__cause__, ValueError)
    assert seen.pairs == [("a", 1)]
    assert consumer.counts.retried == 2
    with store.consume(seen, place=place, retry=QUICK) as consumer:
        store["b"] = 1
        assert consumer.flush(30)
    # The log of memory has the newest state of each key.
    assert seen.pairs == [("a", 1), ("a", 3), ("b", 1)]


def test_a_change_is_skipped(store, place, caplog):
    seen = Recorder(2)
    with store.consume(seen, place=place, retry=1, on_failure="skip") as consumer:
        for value in (1, 2, 3):
            store["a"] = value
        assert consumer.flush(30)
    assert seen.pairs == [("a", 1), ("a", 3)]
    assert consumer.counts.skipped == 1
    assert "it is skipped: ValueError: no 2" in caplog.text


def test_a_change_becomes_a_dead_letter(store, place):
    with datastream.open("memory:") as letters:
        seen = Recorder(2)
        with store.consume(
            seen, place=place, name="mails", retry=QUICK, on_failure=letters
        ) as consumer:
            store["a"] = 2
            store.put("raw", b"\xff", value_type="bytes")
            assert consumer.flush(30)
        [(key, letter)] = letters.items()
    assert key.startswith("mails/a/2")
    assert letter["value"], letter["attempts"] == ("2", 3)
    assert letter["error"] == "ValueError: no 2"
    assert consumer.counts.dead == 1


def test_a_dead_letter_finds_a_place_whatever_the_key_is(store, place, tmp_path):
    keys = ["k" * 300, "a/../b", ".datastream/x", "plain"]
    with datastream.open(f"file:{tmp_path}/letters", create=True) as letters:
        with store.consume(
            Recorder(1), place=place, name="mails", retry=1, on_failure=letters
        ) as consumer:
            store.put_many(dict.fromkeys(keys, 1))
            assert consumer.flush(30)
        assert sorted(letter["key"] for letter in letters.values()) == sorted(keys)
        assert len(letters.snapshot("mails/plain/")) == 1


def test_a_dead_letter_finds_a_place_though_the_value_is_large(store, place, tmp_path):
    large = "x" * 5_000_000
    with datastream.open(f"file:{tmp_path}/letters", create=True) as letters:
        with store.consume(Recorder(large), place=place, retry=1, on_failure=letters) as consumer:
            store["a"] = large
            assert consumer.flush(30)
        [(key, letter)] = letters.items()
    assert key.endswith("Z.json")
    assert (letter["key"], letter["value"]) == ("a", large)


def test_a_dead_letter_leaves_out_what_its_store_cannot_hold(store, place):
    with datastream.open("memory:") as backing, serve(backing, "127.0.0.1:0") as server:
        large = "x" * 5_000_000
        with (
            datastream.open(f"grpc://{server.address}") as letters,
            store.consume(Recorder(large), place=place, retry=1, on_failure=letters) as consumer,
        ):
            store["a"] = large
            assert consumer.flush(30)
            [letter] = letters.values()
    assert (letter["key"], letter["revision"]) == ("a", store.entry("a").revision)
    assert "larger than max" in letter["value_left_out"]


def test_an_undeliverable_change_is_not_tried_again(store, place):
    calls = []

    def handler(entry):
        calls.append(entry.key)
        raise Undeliverable("refused")

    with store.consume(handler, place=place, retry=None, on_failure="skip") as consumer:
        store["a"] = 1
        assert consumer.flush(30)
    assert calls == ["a"]


def test_a_dead_letter_store_that_is_away_is_waited_for(store, place):
    class Away(MemorySource):
        is_away = True

        def write(self, writes):
            if self.is_away:
                raise SourceUnavailable("the disk is full")
            return super().write(writes)

    source = Away()
    with datastream.Store(source) as letters:
        with store.consume(Recorder(1), place=place, retry=1, on_failure=letters) as consumer:
            store["a"] = 1
            assert consumer.status.wait(lambda status: status.state is State.STALE, 30)
            assert "the disk is full" in str(consumer.status.current.error)
            source.is_away = False
            assert consumer.flush(30)
            assert consumer.status.current.state is State.READY
        assert len(letters) == 1


def test_async_handlers_run_on_the_loop_that_is_there(store, place):
    loops = []

    async def handler(entry):
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())

    async def main():
        async with await store.aconsume(handler, "k/", place=place, concurrency=4) as consumer:
            await store.aput_many({f"k/{n}": n for n in range(10)})
            assert await consumer.aflush(30)
        assert loops == [asyncio.get_running_loop()] * 10

    asyncio.run(main())
    loops.clear()
    with store.consume(handler, place=place) as consumer:
        store["a"] = 1
        assert consumer.flush(30)
    assert len(loops) == 1


def test_a_loop_that_ends_stops_the_consumer_and_skips_nothing(store, place):
    async def hang(entry):
        started.set()
        await asyncio.Event().wait()

    async def main():
        consumer = store.consume(hang, place=place, on_failure="skip", retry=1)
        store["a"] = 1
        await asyncio.to_thread(started.wait, 10)
        return consumer

    started = threading.Event()
    consumer = asyncio.run(main())
    assert consumer.wait(30)
    assert consumer.counts.skipped == 0
    seen = Recorder()
    with store.consume(seen, place=place) as consumer:
        assert consumer.flush(30)
    assert seen.pairs == [("a", 1)]


def test_a_hanging_async_handler_is_cancelled(store, place):
    async def hang(entry):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    started, cancelled = threading.Event(), threading.Event()
    consumer = store.consume(hang, place=place)
    store["a"] = 1
    assert started.wait(30)
    assert consumer.stop(0.01)
    assert cancelled.is_set()


def test_what_a_handler_awaits_may_be_cancelled(store):
    calls = []

    async def handler(entry):
        calls.append(entry.decode())
        if len(calls) == 1:
            task = asyncio.ensure_future(asyncio.sleep(30))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task

    with store.consume(handler, place=None, retry=QUICK) as consumer:
        store["a"] = 1
        assert consumer.flush(30)
        assert consumer.counts.retried == 1
    assert calls == [1, 1]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_exits_ends_its_consumer_alone(store, place, is_async):
    def exits(entry):
        sys.exit(3)

    async def exits_on_the_loop(entry):
        sys.exit(3)

    handler = exits_on_the_loop if is_async else exits
    with store.consume(handler, place=place) as consumer:
        store["a"] = 1
        with pytest.raises(DatastreamError, match="SystemExit"):
            consumer.wait(30)
        assert consumer.status.current.state is State.FAILED
    # It is the next one's.
    recorder = Recorder()
    with store.consume(recorder, place=place) as consumer:
        assert consumer.flush(30)
    assert recorder.pairs == [("a", 1)]


def test_flush_ends_when_the_consumer_does(store):
    def handler(entry):
        started.set()
        assert release.wait(30)
        raise OSError("the network is away")

    started, release = threading.Event(), threading.Event()
    consumer = store.consume(handler, place=None, retry=1)
    store["a"] = 1
    assert started.wait(30)
    answers = []
    flushing = threading.Thread(target=lambda: answers.append(consumer.flush()))
    flushing.start()
    release.set()
    flushing.join(30)
    assert answers == [False]
    assert not consumer.flush(0.01)


def test_flush_wakes_with_the_last_change(store, monkeypatch):
    def no_polling(timeout=None):
        assert timeout is None
        return True

    seen = Recorder()
    with store.consume(seen, place=None, concurrency=2) as consumer:
        monkeypatch.setattr(consumer._run.ended, "wait", no_polling)
        for n in range(200):
            store.update({"a": n, "b": n})
            assert consumer.flush(30)
            assert len(seen.pairs) == 2 * n + 2
        monkeypatch.undo()


def test_a_hanging_handler_holds_up_its_key_alone(store, place, monkeypatch):
    def handler(entry):
        if entry.key == "hangs":
            started.set()
            release.wait(30)
        else:
            seen(entry)

    monkeypatch.setattr(running, "HANGS_AFTER", 0.0)
    started, release, seen = threading.Event(), threading.Event(), Recorder()
    consumer = store.consume(handler, place=place, concurrency=2)
    try:
        store["hangs"] = 1
        assert started.wait(30)
        store.update({"a": 1})
        store.update({"a": 2})
        eventually(lambda: len(seen.pairs) == 2, "others are handled")
        assert consumer.lag.changes == 1
        assert "has not returned" in consumer.status.current.degraded
        assert not consumer.flush(0.01)
        assert not consumer.stop(0.01)
    finally:
        release.set()
    assert consumer.wait(30)
    # Although the first one was never finished when they were.
    assert b'"a"' in place.read_bytes()


def test_what_waits_for_a_hanging_handler_is_bounded(store, place, monkeypatch):
    monkeypatch.setattr("datastream._watch.buffer.BOUND", 20)
    monkeypatch.setattr("datastream._consume.queue.CAPACITY", 5)
    release, seen = threading.Event(), Recorder()

    def handler(entry):
        release.wait(30)
        seen(entry)

    with store.consume(handler, place=place) as consumer:
        for n in range(200):
            store[f"k{n % 50}"] = n
        release.set()
        assert consumer.flush(30)
    assert dict(seen.pairs) == dict(store)
    for key in ("k0", "k49"):
        values = [value for k, value in seen.pairs if k == key]
        assert values == sorted(values)


def test_keys_are_handled_at_a_time_and_each_in_order(store, place):
    barrier = threading.Barrier(4)
    seen = Recorder()

    def handler(entry):
        if entry.decode() == 0:
            barrier.wait(30)
        seen(entry)

    with store.consume(handler, place=place, concurrency=4) as consumer:
        for value in range(20):
            store.put_many(dict.fromkeys("abcd", value))
        assert consumer.flush(30)
    for key in "abcd":
        assert [value for k, value in seen.pairs if k == key] == list(range(20))


def test_batches_are_handled_whole(store, place):
    batches = []
    with store.consume(batches.append, place=place, batch=True) as consumer:
        store.put_many({"a": 1, "b": 2})
        store["a"] = 3
        assert consumer.flush(30)
    assert [[entry.key for entry in batch] for batch in batches] == [["a", "b"], ["a"]]


def test_conflation_is_had_by_asking(store, place):
    started, release, seen = threading.Event(), threading.Event(), Recorder()

    def handler(entry):
        started.set()
        release.wait(30)
        seen(entry)

    with store.consume(handler, place=place, conflate=True) as consumer:
        store["first"] = 1
        assert started.wait(30)
        for n in range(100):
            store["a"] = n
        release.set()
        assert consumer.flush(30)
    assert seen.pairs[0] == ("first", 1)
    assert seen.pairs[-1] == ("a", 99)
    # What the feed had taken before is handled, too.
    assert len(seen.pairs) < 10


def test_a_place_in_a_store(store):
    seen = Recorder()
    with datastream.open("memory:") as places:
        for value in (1, 2):
            with store.consume(seen, place=places, name="mails") as consumer:
                store["a"] = value
                assert consumer.flush(30)
            store["b"] = value
        assert "mails/cursor" in places
    assert seen.pairs == [("a", 1), ("b", 1), ("a", 2)]


def test_a_place_in_a_store_whose_answer_was_lost(store):
    class Lossy(MemorySource):
        instant = False
        loses = False

        def write(self, writes):
            written = super().write(writes)
            if self.loses:
                self.loses = False
                raise SourceUnavailable("the answer was lost")
            return written

    source, seen = Lossy(), Recorder()

    def handler(entry):
        seen(entry)
        source.loses = entry.key == "lost"

    with (
        datastream.Store(source) as places,
        store.consume(handler, place=places, name="mails") as consumer,
    ):
        for key in ("lost", "later"):
            store[key] = 1
            # That an answer was lost is no success for who waits then.
            eventually(lambda: consumer.flush(30), "it goes on")
    assert seen.pairs == [("lost", 1), ("later", 1)]


def test_a_place_in_a_store_that_was_removed_is_made_anew(store):
    seen = Recorder()
    with datastream.open("memory:") as places:
        with store.consume(seen, place=places, name="mails") as consumer:
            store["a"] = 1
            assert consumer.flush(30)
            places.clear()
            store["b"] = 1
            assert consumer.flush(30)
        del store["a"]
        with store.consume(seen, place=places, name="mails") as consumer:
            assert consumer.flush(30)
    assert seen.pairs == [("a", 1), ("b", 1), ("a", None)]


def test_two_consumers_cannot_have_one_place(store, place):
    with store.consume(Recorder(), place=place, name="one"):
        with pytest.raises(Taken, match="another consumer is using"):
            store.consume(Recorder(), place=place, name="one")
    with pytest.raises(datastream.DatastreamError, match="place of the consumer 'one'"):
        store.consume(Recorder(), place=place, name="two")
    with datastream.open("memory:") as places:
        one = store.consume(Recorder(), place=places, name="c")
        two = store.consume(Recorder(), place=places, name="c")
        store["a"] = 1
        eventually(
            lambda: any(isinstance(c.status.current.error, Taken) for c in (one, two)),
            "one of them gave up",
        )
        assert one.stop()
        assert two.stop()


def test_what_consuming_writes_must_not_be_consumed(store, place):
    with pytest.raises(InvalidValue, match="leave it out with exclude="):
        store.consume(Recorder(), place=store, name="c")
    with pytest.raises(InvalidValue, match="dead letters go to 'c/'"):
        store.consume(Recorder(), place=place, name="c", on_failure=store)
    seen = Recorder()
    with store.consume(seen, exclude="c/**", place=store, name="c", on_failure=store) as consumer:
        store["a"] = 1
        assert consumer.flush(30)
    assert seen.pairs == [("a", 1)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"handler": 1}, "give a function"),
        ({"retry": 0}, "number of calls"),
        ({"retry": Retry(1, 2.0, 1.0)}, "first <= longest"),
        ({"on_failure": "ignore"}, '"stop", "skip", or a store'),
        ({"concurrency": 0}, "give 1 to"),
        ({"concurrency": 2, "batch": True}, "one after the other"),
        ({"place": 5}, "path of a file"),
        ({"name": ""}, "empty"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(store, place, arguments, words):
    given = {"handler": Recorder(), "place": place} | arguments
    with pytest.raises(datastream.DatastreamError, match=words):
        store.consume(**given)
    assert not place.exists()


@pytest.mark.parametrize(
    ("role", "words"), [("on_failure", "cannot take dead letters"), ("place", "cannot take places")]
)
def test_a_store_that_can_only_be_read_is_refused(store, place, role, words):
    with datastream.open("env:NONE_") as other:
        given = {"place": place, role: other}
        with pytest.raises(datastream.ReadOnly, match=words):
            store.consume(Recorder(), **given)
    assert not place.exists()


def test_a_place_that_is_none_is_left_alone(store, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("not a place\n")
    with pytest.raises(datastream.DatastreamError, match="is no place of a consumer"):
        store.consume(Recorder(), place=other)
    assert other.read_text() == "not a place\n"
    with pytest.raises(datastream.DatastreamError, match="no place can be kept in"):
        store.consume(Recorder(), place=tmp_path / "missing" / "place")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_place_that_is_no_file_is_neither_read_nor_replaced(store, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(datastream.DatastreamError, match="which is no file"):
        store.consume(Recorder(), place=pipe)
    with pytest.raises(datastream.DatastreamError, match="is no file"):
        datastream.mirror(store, "memory:", place=pipe)
    assert pipe.is_fifo()


def test_a_place_on_a_full_disk_is_waited_for(store, place, monkeypatch):
    real, full = os.write, threading.Event()

    def write(fd, data):
        if full.is_set():
            # Some of it may get there.
            real(fd, data[:3])
            raise OSError(28, "No space left on device")
        return real(fd, data)

    seen = Recorder()
    with store.consume(seen, place=place) as consumer:
        monkeypatch.setattr(file_place.os, "write", write)
        full.set()
        store["a"] = 1
        assert consumer.status.wait(lambda status: status.state is State.STALE, 30)
        assert "No space left" in str(consumer.status.current.error)
        full.clear()
        assert consumer.flush(30)
    store["b"] = 1
    with store.consume(seen, place=place) as consumer:
        assert consumer.flush(30)
    assert seen.pairs == [("a", 1), ("b", 1)]


def test_the_store_closing_ends_its_consumers(place):
    with datastream.open("memory:") as store:
        consumer = store.consume(Recorder(), place=place)
    assert consumer.wait(30)
    assert consumer.status.current.state is State.CLOSED


def test_a_handler_may_stop_its_consumer(store, place):
    def handler(entry):
        answers.append(consumer.stop())

    answers = []
    consumer = store.consume(handler, place=place)
    store["a"] = 1
    assert consumer.wait(30)
    assert answers == [False]


def test_the_status_can_be_subscribed_to(store, place):
    states, done = [], threading.Event()
    consumer = store.consume(Recorder(1), place=place, retry=1)
    consumer.status.subscribe(lambda s: states.append(s.state), on_completed=done.set)
    store["a"] = 1
    assert done.wait(30)
    assert states[-1] is State.FAILED


def test_what_a_backend_cannot_tell_is_told_key_by_key(tmp_path, place):
    """Files have no log: what differs is handled, deletes included."""
    with datastream.open(f"file:{tmp_path}/data", create=True) as store:
        store.update({"a": 1, "b": 1, "c": 1})
        with store.consume(Recorder(), place=place, initial=True) as consumer:
            assert consumer.flush(30)
        store.update({"b": 2, "d": 1})
        del store["c"]
        seen = Recorder()
        with store.consume(seen, place=place) as consumer:
            assert consumer.flush(30)
        assert sorted(seen.pairs, key=str) == [("b", 2), ("c", None), ("d", 1)]


def test_a_log_that_was_lost_costs_no_delete(place):
    """A memory store forgets its log with its process: its cursors are foreign then."""
    with datastream.open("memory:") as store:
        store.update({"a": 1, "gone": 1})
        with store.consume(Recorder(), place=place, initial=True) as consumer:
            assert consumer.flush(30)
    seen = Recorder()
    with datastream.open("memory:") as store:
        store.update({"a": 1})
        with store.consume(seen, place=place) as consumer:
            assert consumer.flush(30)
    assert sorted(seen.pairs) == [("a", 1), ("gone", None)]


PLACES = ["in a file", "in a store"]


@pytest.fixture
def place_in(request, tmp_path):
    if request.param == "in a file":
        yield tmp_path / "place"
    else:
        with datastream.open("memory:") as kept:
            yield kept


def consumed(url, place, **options):
    """What a consumer is given that ends once nothing is left."""
    seen = Recorder()
    with datastream.open(url) as store, store.consume(seen, place=place, **options) as consumer:
        assert consumer.flush(30)
    return seen.pairs


@pytest.mark.parametrize("place_in", PLACES, indirect=True)
@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_place_of_another_store_is_refused(tmp_path, kind, place_in):
    """All that the other one holds would be handled as deleted."""
    here, there = (f"{kind}:{tmp_path}/{name}?create=true" for name in ("here", "there"))
    for url, key in ((here, "a"), (there, "b")):
        with datastream.open(url) as store:
            store[key] = 1
    assert consumed(here, place_in, initial=True) == [("a", 1)]
    for _ in range(2):
        with pytest.raises(DatastreamError, match=r"/here, not .*/there: keys that"):
            consumed(there, place_in)
    with datastream.open(here) as store:
        store["c"] = 1
    assert consumed(here, place_in) == [("c", 1)], "the place is as it was"
    told = [("a", None), ("b", 1), ("c", None)]
    assert sorted(consumed(there, place_in, moved=True), key=str) == told
    assert consumed(there, place_in) == [], "it is the place of that one now"


@pytest.mark.parametrize("place_in", PLACES, indirect=True)
def test_the_place_of_a_store_that_was_moved_with_its_log_goes_on(tmp_path, place_in):
    with datastream.open(f"sqlite:{tmp_path}/here?create=true") as store:
        store.update({"a": 1, "gone": 1})
    assert len(consumed(f"sqlite:{tmp_path}/here", place_in, initial=True)) == 2
    (tmp_path / "here").rename(tmp_path / "there")
    with datastream.open(f"sqlite:{tmp_path}/there") as store:
        del store["gone"]
    assert consumed(f"sqlite:{tmp_path}/there", place_in) == [("gone", None)]
    assert consumed(f"sqlite:{tmp_path}/there?interval=1", place_in) == []


def test_a_key_whose_handling_was_not_saved_and_that_is_gone_is_told(tmp_path, place):
    """Handled, then killed before the place was saved, then removed: no backend tells of it."""
    with datastream.open(f"file:{tmp_path}/data", create=True) as store:
        store["kept"] = 1
        consumer = store.consume(Recorder(), place=place)
        eventually(lambda: b"kept" in place.read_bytes(), "the place is kept")
        saved = place.read_bytes()
        store["a"] = 1
        assert consumer.flush(30)
        consumer.stop()
        lines = place.read_bytes().removeprefix(saved).splitlines(keepends=True)
        assert json.loads(lines[0].split(b" ", 1)[1])["revisions"]["a"].startswith("unsure:")
        place.write_bytes(saved + lines[0])
        del store["a"]
        seen = Recorder()
        with store.consume(seen, place=place) as consumer:
            assert consumer.flush(30)
    assert seen.pairs == [("a", None)]


FORKING = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import datastream

store = datastream.open("memory:")
consumer = store.consume(print, place=sys.argv[1])
ending, end = os.pipe()
child = os.fork()
if not child:
    os.close(end)
    # In one write: the parent prints to the same pipe.
    os.write(1, f"{consumer.status.current.state} {consumer.stop()}\\n".encode())
    os.read(ending, 1)
    os._exit(0)
store["a"] = 1
assert consumer.flush(30)
assert consumer.stop()
# Though the child lives, the place is free.
assert store.consume(print, place=sys.argv[1]).stop()
os.close(end)
os.waitpid(child, 0)
store.close()
"""


def test_a_child_process_holds_nothing_of_a_consumer(place):
    output = subprocess.check_output([sys.executable, "-c", FORKING, place], text=True, timeout=100)
    assert "CLOSED True" in output
    assert output.count("Entry(") == 1
