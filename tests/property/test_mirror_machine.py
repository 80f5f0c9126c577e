"""Random histories of a mirror against dictionaries: other writers, outages, crashes, restarts."""

import secrets
from itertools import count

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from datastream import DatastreamError, SourceUnavailable, State, Store, Write, mirror
from datastream._mirror.progress import MIRRORS, Progress
from datastream.sources.memory import MemorySource
from datastream.testing import Spy
from tests.property.machine import search, searched

AWAY = SourceUnavailable("the server is away")
KEYS = ("a", "b", "fx/USD", "fx/GBP", "deep/er/key")
LONG = 20

keys = st.sampled_from(KEYS)
commits = st.dictionaries(keys, st.booleans(), min_size=1)


class MirrorMachine(RuleBasedStateMachine):
    """`want` is what the source holds, `others` and `have` what the target should."""

    on_conflict = None

    def __init__(self):
        super().__init__()
        self.names = secrets.token_hex(8), secrets.token_hex(8)
        self.beside = [Store(MemorySource(name)) for name in self.names]
        self.numbers = count()
        self.want, self.have = {}, {}
        # What the target held when the mirror has last looked.
        self.before = {}
        # Written by others since the mirror has looked; left to them for good.
        self.touched, self.theirs = set(), set()
        self.start()

    def start(self):
        self.spies = [Spy(MemorySource(name)) for name in self.names]
        # The same names as those of the processes before.
        self.stores = [
            Store(spy, name=f"memory:{name}")
            for spy, name in zip(self.spies, self.names, strict=True)
        ]
        options = {"on_conflict": self.on_conflict, "delete_limit": 1.0}
        self.running = mirror(*self.stores, **options)

    @rule(commit=commits)
    def change(self, commit):
        """The source changes: keys are written or removed, in one commit."""
        writes = [self.write(self.want, key, put) for key, put in commit.items()]
        self.beside[0].write(*writes)

    @rule(commit=commits)
    def write_into_target(self, commit):
        """Others write the target."""
        changed = {key for key, put in commit.items() if put or key in self.have}
        writes = [self.write(self.have, key, put) for key, put in commit.items()]
        self.beside[1].write(*writes)
        self.touched |= changed

    @precondition(lambda self: not self.is_away)
    @rule()
    def agree(self):
        """Others bring the target to what the source holds."""
        self.touched |= self.theirs
        writes = [Write(key, self.want.get(key), "bytes") for key in self.touched]
        if writes:
            self.beside[1].write(*writes)
            for write in writes:
                self.note(self.have, write)

    @property
    def is_away(self):
        return any(spy.failure for spy in self.spies)

    @rule(side=st.integers(0, 1))
    def go_away(self, side):
        self.spies[side].failure = AWAY
        self.stores[side].refresh()

    @rule()
    def come_back(self):
        for spy in self.spies:
            spy.failure = None

    @rule(crash=st.booleans())
    def restart(self, crash):
        self.stop(crash)
        self.start()

    @rule(commit=commits, crash=st.booleans())
    def restart_after_a_change(self, commit, crash):
        self.stop(crash)
        self.change(commit)
        self.start()

    @invariant()
    def it_is_as_it_should_be(self):
        if self.is_away:
            return
        self.decide()
        if self.refuses():
            with pytest.raises(DatastreamError, match="others wrote"):
                self.running.flush(LONG)
            return
        try:
            assert self.running.flush(LONG)
        except DatastreamError:
            assert self.may_refuse()
            return
        self.settle()
        ours = {key: value for key, value in self.want.items() if key not in self.theirs}
        self.have = ours | {key: self.have[key] for key in self.theirs if key in self.have}
        self.touched.clear()
        self.before = dict(self.have)
        assert self.held(1) == self.have
        assert self.held(0) == self.want
        assert self.running.status.current.state is State.READY

    def decide(self):
        """What was written by others and is not what the source holds."""
        raise NotImplementedError

    def refuses(self):
        return False

    def may_refuse(self):
        return False

    def settle(self):
        """Take in what the mirror may have decided either way."""

    def write(self, into, key, put):
        write = Write(key, b"%d" % next(self.numbers) if put else None, "bytes")
        self.note(into, write)
        return write

    def note(self, into, write):
        if write.value is None:
            into.pop(write.key, None)
        else:
            into[write.key] = write.value

    def written_by_others(self):
        """Keys that are not as they were, nor as the source has them."""
        now = {key: self.have.get(key) for key in self.touched}
        return {k for k, v in now.items() if v not in (self.want.get(k), self.before.get(k))}

    def leave_to_others(self):
        changed = {k for k in self.touched if self.have.get(k) != self.before.get(k)}
        self.theirs = (self.theirs - changed) | self.written_by_others()

    def held(self, side):
        entries = self.beside[side].snapshot().items()
        return {key: e.value for key, e in entries if not key.startswith("_datastream/")}

    def stop(self, crash):
        if crash:
            self.running._worker._end = self.running._worker._feeds.leave
        self.running.close()
        for store in self.stores:
            store.close()
        if crash:
            # Keys that the mirror may have written last count as its own, whatever others wrote.
            self.touched -= self.kept()

    def kept(self):
        """The keys that the place names as written last."""
        places = self.beside[1].snapshot(MIRRORS).values()
        return {key for place in places for key in Progress.loads(place.value, "kept").written}

    def teardown(self):
        self.stop(crash=False)
        for store in self.beside:
            store.close()


class SourceWins(MirrorMachine):
    on_conflict = "source"

    def decide(self):
        self.touched.clear()


class TargetWins(MirrorMachine):
    on_conflict = "target"

    def decide(self):
        self.leave_to_others()


class Refuses(MirrorMachine):
    def decide(self):
        pass

    def refuses(self):
        return bool(self.written_by_others())

    def may_refuse(self):
        # Brought back to what it was: a mirror that has not seen what it was cannot know.
        return any(self.have.get(key) != self.want.get(key) for key in self.touched)


class ChangesItsMind(Refuses):
    """Each start may have another rule: what was left to others is decided anew."""

    def __init__(self):
        # Keys that a mirror may take for others' or not, as it has seen what they were or not.
        self.unclear = set()
        super().__init__()

    @rule(crash=st.booleans(), on_conflict=st.sampled_from((None, "source", "target")))
    def restart_with_another_rule(self, crash, on_conflict):
        self.stop(crash)
        self.on_conflict = on_conflict
        self.start()

    def decide(self):
        if self.on_conflict == "target":
            # Brought back to what it was, while it was refused.
            back = {k for k in self.touched if self.have.get(k) == self.before.get(k)}
            self.unclear |= {k for k in back if not self.agrees(k)}
            self.leave_to_others()
        elif self.on_conflict == "source":
            for keys_ in (self.touched, self.theirs, self.unclear):
                keys_.clear()
        else:
            # No conflict any more, beside those that are refused.
            self.unclear |= set(filter(self.agrees, self.theirs | self.touched))

    def refuses(self):
        if self.on_conflict is not None:
            return False
        left = not all(map(self.agrees, self.theirs))
        if not left:
            self.theirs.clear()
        return left or super().refuses()

    def may_refuse(self):
        return self.on_conflict is None and super().may_refuse()

    def settle(self):
        if self.on_conflict is None:
            self.unclear.clear()
        held = self.held(1)
        for key in [key for key in self.unclear if not self.agrees(key)]:
            self.unclear.discard(key)
            if held.get(key) == self.have.get(key):
                self.theirs.add(key)
            else:
                self.theirs.discard(key)

    def note(self, into, write):
        super().note(into, write)
        if into is self.have:
            self.unclear.discard(write.key)

    def agrees(self, key):
        return self.have.get(key) == self.want.get(key)


@pytest.mark.timeout(300)
@searched((SourceWins, 40, 20), (TargetWins, 40, 20), (Refuses, 40, 20), (ChangesItsMind, 40, 20))
def test_mirror_machine(machine, examples, steps):
    search(machine, examples, steps)
