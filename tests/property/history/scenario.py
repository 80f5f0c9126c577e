"""One random history: writers, newcomers, resumes and faults over one backend."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from random import Random

import datastream_grpc

import datastream
from datastream import DatastreamError, State, Store
from datastream.source import Feature, Write
from tests.property.history.checker import Asked, Line, Truth, check, converged, differences
from tests.property.history.faults import Faults, faulty
from tests.property.history.recording import EventLoop, Subscriber
from tests.property.history.writers import PAIR, Gate, Journal, Writer

SEED = os.environ.get("DATASTREAM_HISTORY_SEED", "")
"""Of a history to be run again."""
SECONDS = float(os.environ.get("DATASTREAM_HISTORY_SECONDS", "0"))
"""How long each history takes; 0 leaves it to the test."""
CONVERGE = 30.0
"""Seconds after which what has not come counts as lost."""
SHOWN = 12
VISITED = "visited"
"""The store that all leave again."""
KEPT = 40
"""Past subscribers from which others go on."""


class History:
    """A scenario.

    Args:
        backend: empty.
        remote: stores behind gRPC watch and write too.
        shared: all writers write to the same keys; else each has its own.
        faults: the source fails now and then.
        rounds: of writing, each followed by a rest in which everybody must have everything.
        seconds: that all rounds take.
    """

    def __init__(
        self, backend, *, remote=False, shared=True, faults=False, rounds=3, seconds=1.5, seed=None
    ):
        self.backend, self.remote, self.shared = backend, remote, shared
        self.with_faults = faults
        self.rounds, self.seconds = rounds, SECONDS or seconds
        self.seed = SEED or seed or f"{int.from_bytes(os.urandom(4)):x}"
        self.random = Random(self.seed)
        # Only of keys that somebody knows can an empty answer be told from the truth: those cases
        # are in test_core_empty. By chance it comes for others too, so it has to be asked for.
        empty = bool(os.environ.get("DATASTREAM_HISTORY_EMPTY"))
        self.faults = Faults(Random(f"faults {self.seed}"), empty=empty)
        self.gate, self.stop = Gate(), threading.Event()
        self.journals = {}
        self.acknowledged = []
        self.stayers, self.past, self.kept = [], [], []
        self.all = []
        self.problems = []
        self.broken = []
        self.numbers = count()
        self._lock = threading.Lock()

    def run(self):
        """Do it all, and check it.

        Raises:
            AssertionError: a promise was broken; says how to see it again.
        """
        with ExitStack() as stack:
            self._open(stack)
            threads = [
                threading.Thread(target=self._guarded, args=(work,), name=f"history-{work}")
                for work in self._work()
            ]
            stack.callback(self._end, threads)
            self._begin_stayers()
            for thread in threads:
                thread.start()
            for left in reversed(range(self.rounds)):
                self.faults.on = self.with_faults
                self.stop.wait(self.seconds / self.rounds)
                self.faults.on = False
                with self.gate.rest():
                    self._rest()
                    if not left or self.problems or self.broken:
                        self.stop.set()
                        break
            self._end(threads)
            for one in self.all:
                one.dispose()
            self._check()
        return self

    # Set-up.

    def _open(self, stack):
        stack.enter_context(_switching(1e-6 if self.random.random() < 0.5 else None))
        source = self.backend.source()
        self.features = source.features
        local = stack.enter_context(Store(faulty(source, self.faults), name="local"))
        self.stores = {"local": local}
        if self.remote:
            server = stack.enter_context(datastream_grpc.serve(local, "127.0.0.1:0"))
            for name in ("remote", "remote2"):
                remote = datastream.open(f"grpc://{server.address}")
                self.stores[name] = stack.enter_context(remote)
            visited = datastream.open(f"grpc://{server.address}")
        else:
            visited = Store(faulty(self.backend.source(), self.faults), name=VISITED)
        # Nobody stays there, so that its poller rests and starts anew all the time.
        self.stores[VISITED] = stack.enter_context(visited)
        self.loop = EventLoop()
        stack.callback(self.loop.close)

    def _work(self):
        """What threads do until the end."""
        foreign = [f"f{number}" for number in range(1 + (self.random.random() < 0.5))]
        own = ["own"] if not self.remote else self.random.sample(["own", "far"], 2)
        self.writers = [
            self._writer(name, self.backend.commit, self.backend.moments) for name in foreign
        ]
        for name in own:
            store = "local" if name == "own" else "remote"
            pairs = Feature.ATOMIC in self.features
            self.writers.append(self._writer(name, _Own(self, store), pairs))
        newcomers = [_Newcomers(self, f"{self.seed} {n}") for n in range(2)]
        return [*(_Writing(self, writer) for writer in self.writers), *newcomers, _Readers(self)]

    def _writer(self, name, commit, pairs):
        space = "s" if self.shared else name
        journal = None
        if not self.backend.audited:
            journal = self.journals.setdefault(space, Journal())
        return Writer(
            name,
            space,
            f"{self.seed} {name}",
            commit,
            pairs=pairs,
            journal=journal,
            acknowledge=lambda key, value: self.acknowledged.append((key, value)),
            peek=self.backend.peek,
            pace=self.backend.pace,
        )

    def asked(self, random):
        space = random.choice([writer.space for writer in self.writers])
        return random.choice(
            (
                Asked(),
                Asked(),
                Asked((f"{space}/",)),
                Asked((f"{space}/fx/",)),
                Asked((f"{space}/fx/flash/",)),
                Asked(tuple(f"{space}/{key}" for key in PAIR)),
                Asked((f"{space}/a", f"{space}/fx/old/")),
                Asked((f"{space}/a",)),
                Asked((f"{space}/a", f"{space}/b")),
                Asked((f"{space}/b", f"{space}/fx/flash/0", f"{space}/fx/flash/1")),
                Asked((f"{space}/fx/flash/2",), ("*/b",)),
                Asked((), ("*/fx/*",)),
                Asked((), ("**/flash/?", "*/pair/a")),
                Asked((f"{space}/pair/",), ("**/USD",)),
            )
        )

    def _begin_stayers(self):
        # What somebody watches anyhow is known already when a newcomer comes.
        everything = Asked() if self.random.random() < 0.7 else self.asked(self.random)
        for name, store in self._stayed():
            others = self.asked(self.random)
            for asked, delay in ((everything, 0.0), (others, 0.0), (everything, 0.02)):
                one = self.subscriber(f"stayer {name}", store, asked, None, delay)
                self.stayers.append(one.start())

    def _stayed(self):
        """The stores that are watched until the end."""
        return [(name, store) for name, store in self.stores.items() if name != VISITED]

    def subscriber(self, name, store, asked, resume=None, delay=0.0):
        name = f"{name} #{next(self.numbers)}"
        one = Subscriber(store, name, asked, len(self.acknowledged), resume, delay)
        with self._lock:
            self.all.append(one)
        return one

    def _guarded(self, work):
        try:
            while not self.stop.is_set():
                work.step()
        except Exception as error:
            self.broken.append(f"{work}: {error!r}")
            if os.environ.get("DATASTREAM_HISTORY_TRACE"):
                raise
            self.stop.set()

    def _end(self, threads):
        self.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(60)
        hung = [thread.name for thread in threads if thread.is_alive()]
        if hung:
            self.broken.append(f"never returned: {hung}")

    # Rests, and the check.

    def _rest(self):
        """All writers rest: everybody who stays must soon have exactly what there is."""
        if self.with_faults:
            for store in self.stores.values():
                store.refresh()
        for writer in {writer.space: writer for writer in self.writers}.values():
            # Else what came and went just now may still be under way when all have the rest.
            writer.mark()
        final = self._truth().final()
        with self._lock:
            living = [*self.stayers, *self.kept]
        until = time.monotonic() + CONVERGE
        for one in living:
            # Whatever it has not taken yet, it takes quickly now.
            one.rest = True
        for one in living:
            wanted = {k: v for k, v in final.items() if one.received.asked.matches(k)}
            if not one.wait_for(wanted, until):
                shown = differences(one.state.values, wanted)
                why = f"error {one.error!r}, " if one.error else ""
                self.problems.append(f"converges: {one.received.name}: {why}{shown}")
        if not self.problems:
            self._check_status(until)
        for one in living:
            one.rest = False
        with self._lock:
            leaving, self.kept = self.kept, []
        for one in leaving:
            one.dispose()
            self.past.append(one)

    def _check_status(self, until):
        for name, store in self._stayed():
            while store.status.current.state is not State.READY:
                if time.monotonic() > until:
                    self.problems.append(f"survives: {name} is {store.status.current}")
                    return
                time.sleep(0.01)

    def _truth(self):
        if self.backend.audited:
            lines = [Line(self.backend.audit(), atomic=self.backend.moments)]
        else:
            lines = [Line(list(j.commits), self.backend.moments) for j in self.journals.values()]
        groups = []
        if not self.backend.moments and Feature.ATOMIC in self.features:
            groups = [Line(pairs) for pairs in map(_pairs, lines) if pairs]
        return Truth(
            lines,
            groups,
            list(self.acknowledged),
            may_reset=self.backend.may_reset,
            content_revisions=self.backend.content_revisions,
            exact_resumes=self.backend.exact_resumes,
        )

    def _check(self):
        truth = self._truth()
        # What was acknowledged when they began is counted in this very list.
        for one in self.all:
            if one.error is not None:
                self.problems.append(f"error: {one.received.name}: {one.error!r}")
        if not self.problems:
            for one in self.stayers:
                self.problems += [f"{p}: {t}" for p, t in converged(truth, one.received)]
        self.problems += map(str, check(truth, [one.received for one in self.all]))
        if not (self.problems or self.broken):
            return
        shown = [*self.broken, *self.problems]
        commits = sum(len(line.commits) for line in truth.lines)
        raise AssertionError(
            f"{len(shown)} broken promises in {commits} commits, {len(self.all)} subscribers, "
            f"{self.faults.count} faults:\n  "
            + "\n  ".join(text[:700] for text in shown[:SHOWN])
            + f"\nagain: DATASTREAM_HISTORY_SEED={self.seed} pytest …  # this very test"
        )


def _pairs(line):
    """The commits of the pair's keys alone."""
    reduced = []
    for commit in line.commits:
        part = {k: v for k, v in commit.items() if k.endswith(PAIR)}
        if part:
            reduced.append(part)
    return reduced


class _Own:
    """Commits through one of the stores; then those who watch there have it."""

    def __init__(self, history, name):
        self.history, self.store, self.name = history, history.stores[name], name

    def __call__(self, changes):
        random, kind = self.history.random, self.history.backend.value_type
        try:
            self.store.write(*(Write(key, value, kind) for key, value in changes.items()))
        except DatastreamError as error:
            if not self.history.with_faults:
                raise
            return error
        # With faults the read after the write may fail: watchers are told as soon as one succeeds.
        if self.history.with_faults:
            return None
        if random.random() < 0.2 and self.store.flush(1):
            for one in self.history.stayers:
                if one.store is self.store and not one.delay:
                    for key, value in changes.items():
                        if value is not None:
                            one.offered(key, value)
        return None


class _Writing:
    def __init__(self, history, writer):
        self.history, self.writer = history, writer

    def __repr__(self):
        return f"writer {self.writer.name}"

    def step(self):
        with self.history.gate.working():
            if not self.history.stop.is_set():
                self.writer.step()
        self.writer.sleep()


class _Newcomers:
    """Subscribes, lives for a while, leaves; goes on where another one left."""

    def __init__(self, history, seed):
        self.history = history
        self.random = Random(f"newcomers {seed}")

    def __repr__(self):
        return "newcomers"

    def step(self):
        history, random = self.history, self.random
        name = random.choice([*history.stores])
        store, asked, resume = history.stores[name], history.asked(random), None
        if history.past and random.random() < 0.6:
            before = random.choice(history.past[-KEPT:])
            if before.store is store:
                asked = before.received.asked
                resume = before.resume(random.choice(("cursor", "map")), random)
        delay = random.choice((0.0, 0.0, 0.0, 0.01))
        one = history.subscriber(f"newcomer {name}", store, asked, resume, delay)
        if random.random() < 0.3:
            one.start_async(history.loop.loop)
        else:
            one.start()
        stays = random.random() < 0.15
        history.stop.wait(random.random() * random.choice((0.0, 0.01, 0.1)))
        if stays:
            with history._lock:
                history.kept.append(one)
        else:
            one.dispose()
            history.past.append(one)


class _Readers:
    """Reads one key, or many, beside all else."""

    def __init__(self, history):
        self.history = history
        self.random = Random(f"readers {history.seed}")

    def __repr__(self):
        return "reader"

    def step(self):
        history, random = self.history, self.random
        name = random.choice([*history.stores])
        store, asked = history.stores[name], history.asked(random)
        number = next(history.numbers)
        before = len(history.acknowledged)
        one = Subscriber(store, f"snapshot {name} #{number}", asked, before)
        try:
            if len(asked.keys) == 1 and not (asked.match or asked.keys[0].endswith("/")):
                self._get(store, one, asked.keys[0])
            else:
                one.take(store.snapshot_batch(*asked.keys, match=asked.match))
                history.past.append(one)
        except DatastreamError:
            if not history.with_faults:
                raise
            return
        with history._lock:
            history.all.append(one)
        history.stop.wait(random.random() * 0.02)

    def _get(self, store, one, key):
        entries = ()
        with suppress(datastream.KeyNotFound):
            entries = (store.entry(key),)
        # No cursor: nobody goes on from here.
        one.take(datastream.Batch(entries, "", True, False))


@contextmanager
def _switching(interval):
    before = sys.getswitchinterval()
    if interval:
        sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
