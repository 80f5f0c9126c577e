"""Random histories of writers and watchers, checked against a dictionary and a log: the machine."""

from itertools import count

import pytest
from datastream_grpc import GrpcSource, serve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from datastream import KeyNotFound, RevisionConflict, Selection, Store
from datastream.testing import Recorder

KEYS = ("a", "b", "fx/USD", "fx/GBP", "fx/old/DEM")
SELECTIONS = (
    {"keys": ()},
    {"keys": ("a",)},
    {"keys": ("fx/",)},
    {"keys": ("b", "fx/old/")},
    {"keys": (), "match": "fx/*"},
    {"keys": ("a",), "match": "**/DEM"},
)

keys = st.sampled_from(KEYS)
# Few, so that a key is often given the value that it has.
values = st.sampled_from((b"", b"one", b"two"))
batches = st.dictionaries(keys, values, min_size=1)


class Follower:
    """A watcher with what it may see."""

    def __init__(self, machine, selection, since=None):
        self.arguments = selection
        self.selection = Selection.of(*selection["keys"], match=selection.get("match", ()))
        self.recorder = Recorder(
            machine.store,
            *selection["keys"],
            match=selection.get("match", ()),
            since=since.recorder.cursor if since else None,
            had=since.recorder.state if since else None,
        )

    def expected(self, model):
        return {key: value for key, value in model.items() if self.selection.matches(key)}


class StoreMachine(RuleBasedStateMachine):
    """`store` is under test, `elsewhere` writes from another store, `raw` beside the library."""

    followers = Bundle("followers")
    left = Bundle("left")

    def __init__(self):
        super().__init__()
        self.model = {}
        self.order = {}
        self.places = count()
        self.open_followers = []
        self.store, self.elsewhere = self.open()

    def open(self):
        raise NotImplementedError

    @initialize(first=batches)
    def begin(self, first):
        self.put_many(first, True)

    @rule(key=keys, value=values, here=st.booleans())
    def put(self, key, value, here):
        self.note(self.writer(here).put(key, value))
        self.model[key] = value

    @rule(values=batches, here=st.booleans())
    def put_many(self, values, here):
        for entry in self.writer(here).put_many(values):
            self.note(entry)
        self.model.update(values)

    @rule(key=keys, here=st.booleans())
    def delete(self, key, here):
        if key in self.model:
            self.writer(here).delete(key)
            del self.model[key]
        else:
            with pytest.raises(KeyNotFound):
                self.writer(here).delete(key)

    @rule(key=keys, value=values, here=st.booleans())
    def compare_and_set(self, key, value, here):
        revision = self.store.entry(key).revision if key in self.model else ""
        self.note(self.writer(here).put(key, value, expect=revision))
        self.model[key] = value

    @rule(key=keys, value=values, here=st.booleans())
    def compare_and_set_in_vain(self, key, value, here):
        with pytest.raises(RevisionConflict):
            self.writer(here).put(key, value, expect="no such revision")

    @rule(key=keys, value=st.none() | values)
    def write_beside(self, key, value):
        self.raw(key, value)
        # A program that leaves the time alone may bring a revision back.
        self.order = {at: place for at, place in self.order.items() if at[0] != key}
        if value is None:
            self.model.pop(key, None)
        else:
            self.model[key] = value

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

    @invariant()
    def reads_are_true(self):
        snapshot = self.store.snapshot()
        assert {key: entry.value for key, entry in snapshot.items()} == self.model
        assert set(self.store) == set(self.model)

    @invariant()
    def every_watcher_has_it(self):
        for follower in self.open_followers:
            self.check(follower)

    def follow(self, selection, since=None):
        follower = Follower(self, selection, since)
        follower.recorder.wait_ready()
        self.open_followers.append(follower)
        return follower

    def check(self, follower):
        follower.recorder.wait_state(follower.expected(self.model))
        newest, last = {}, {}
        for entry in follower.recorder.entries:
            assert follower.selection.matches(entry.key)
            assert last.get(entry.key) != (entry.revision, entry.operation), "delivered twice"
            last[entry.key] = (entry.revision, entry.operation)
            place = self.order.get((entry.key, entry.revision))
            if place is not None:
                assert newest.get(entry.key, -1) < place, f"{entry.key} twice, or went back"
                newest[entry.key] = place

    def note(self, entry):
        """Remember the order of revisions; writing what is there already makes none."""
        if self.model.get(entry.key) != entry.value:
            self.order[entry.key, entry.revision] = next(self.places)

    def writer(self, here):
        return self.store if here else self.elsewhere

    def teardown(self):
        self.store.close()
        self.elsewhere.close()


class Served:
    """Mixed in before a machine: what is under test and the writer elsewhere are gRPC clients."""

    def open(self):
        self.served, elsewhere = super().open()
        elsewhere.close()
        self.server = serve(self.served, "127.0.0.1:0")
        address = self.server.address
        return Store(GrpcSource(address)), Store(GrpcSource(address))

    def teardown(self):
        self.store.close()
        self.elsewhere.close()
        self.server.stop()
        self.served.close()
        super().teardown()


def searched(*cases):
    """Parametrize a test that calls `search`; each case is a machine, examples and steps.

    A plain run searches through a few examples, the long runs through all.
    """
    few = [pytest.param(m, max(2, n // 12), steps, id=m.__name__) for m, n, steps in cases]
    all_ = [
        pytest.param(m, n, steps, id=f"{m.__name__}-all", marks=pytest.mark.chaos)
        for m, n, steps in cases
    ]
    return pytest.mark.parametrize(("machine", "examples", "steps"), [*few, *all_])


def search(machine, examples, steps):
    """Look for a history that breaks a promise."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
