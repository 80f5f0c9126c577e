"""Random histories of views and bindings against dictionaries: bad values, outages, restarts."""

import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import BaseModel, ValidationError, model_validator

from datastream import InvalidValue, SourceUnavailable, State, Store
from datastream.sources.memory import MemorySource
from datastream.testing import Spy, overriding
from tests.integration._programs.tools import eventually
from tests.property.machine import search, searched

AWAY = SourceUnavailable("the server is away")
KEYS = ("app/low", "app/high", "app/part/a", "app/part/b")

keys = st.sampled_from(KEYS)
# Few, so that a key is often given the value that it has; the last ones are refused.
values = st.sampled_from(("1", "2", "3", "x", ""))
commits = st.dictionaries(keys, st.none() | values, min_size=1)


class Following(RuleBasedStateMachine):
    """One store whose backend goes away, comes back and is changed from elsewhere all along."""

    def __init__(self):
        super().__init__()
        self.name = secrets.token_hex(8)
        self.elsewhere = Store(MemorySource(self.name))
        self.raw = {}
        self.is_away = False
        self.directory = Path(tempfile.mkdtemp())
        self.begin()

    def begin(self):
        self.spy = Spy(MemorySource(self.name))
        self.spy.failure = AWAY if self.is_away else None
        self.store = Store(self.spy, name="layer")
        self.follow()

    def follow(self):
        raise NotImplementedError

    def synced(self):
        """The backend is there, and what it holds has arrived."""
        raise NotImplementedError

    @initialize(first=commits)
    def fill(self, first):
        self.commit(first)

    @rule(commit=commits)
    def commit(self, commit):
        puts = {key: value for key, value in commit.items() if value is not None}
        if puts:
            self.elsewhere.put_many(puts)
            self.raw.update(puts)
        for key in commit.keys() - puts.keys():
            self.elsewhere.delete(key, missing_ok=True)
            self.raw.pop(key, None)
            # Each is a state of its own: a last good value may be one in between.
            self.sync()
        self.sync()

    @precondition(lambda self: not self.is_away)
    @rule()
    def go_away(self):
        self.is_away = True
        self.spy.failure = AWAY
        self.store.refresh()

    @precondition(lambda self: self.is_away)
    @rule()
    def come_back(self):
        self.is_away = False
        self.spy.failure = None
        self.store.refresh()
        self.sync()

    def sync(self):
        if not self.is_away:
            self.synced()

    def teardown(self):
        self.store.close()
        self.elsewhere.close()
        shutil.rmtree(self.directory)


class ViewMachine(Following):
    """A view that refuses what is no number, with a cache, started anew now and then."""

    def __init__(self):
        self.good = {}
        self.bad = set()
        self.pictures = []
        super().__init__()

    def follow(self):
        self.view = self.store.view("app/", as_=int, cache=self.directory / "cache")
        self.told = self.view.copy() if self.view._state.exists else {}
        self.view.changes.subscribe(self.take)

    def take(self, change):
        assert self.told.get(change.key) == change.old
        if change.new is None:
            del self.told[change.key]
        else:
            self.told[change.key] = change.new

    def synced(self):
        for key in KEYS:
            value = self.raw.get(key)
            self.bad.discard(key)
            if value is None:
                self.good.pop(key, None)
            elif value.isdecimal():
                self.good[key] = int(value)
            else:
                self.bad.add(key)
        eventually(self.is_there, f"{self.good}, without {self.bad}")

    def is_there(self):
        view = self.view
        return (
            view.status.current.state is State.READY
            and view.copy() == self.good
            and view.rejected.keys() == self.bad
        )

    @rule()
    def start_anew(self):
        self.store.flush()
        self.store.close()
        self.begin()
        self.sync()

    @rule()
    def take_a_picture(self):
        if self.view._state.exists:
            self.pictures.append((self.view.snapshot(), self.view.copy()))

    @invariant()
    def pictures_stay(self):
        assert all(dict(snapshot) == copy for snapshot, copy in self.pictures)

    @invariant()
    def the_last_good_state_stands(self):
        if self.view._state.exists:
            assert self.view.copy() == dict(self.view) == self.good
            self.store.flush()
            assert self.told == self.good


class Part(BaseModel):
    a: int = 0
    b: int = 0


class Settings(BaseModel):
    low: int = 0
    high: int = 9
    part: Part = Part()

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def object_of(raw):
    """What the keys make, None if that does not validate."""
    made = {"part": {}}
    for key, value in raw.items():
        *inner, name = key.removeprefix("app/").split("/")
        (made["part"] if inner else made)[name] = value
    try:
        return Settings.model_validate(made)
    except ValidationError:
        return None


class BindingMachine(Following):
    """A binding that is written back to, and overridden."""

    def __init__(self):
        self.good = None
        super().__init__()

    def begin(self):
        self.good = Settings()
        super().begin()

    def follow(self):
        self.settings = self.store.bind(Settings, "app/")
        self.told = self.settings.current
        self.settings.changes.subscribe(self.take)

    def take(self, change):
        assert change.old == self.told
        assert change.paths
        self.told = change.new

    def synced(self):
        self.good = object_of(self.raw) or self.good
        eventually(self.is_there, f"{self.good} of {self.raw}")

    def is_there(self):
        settings = self.settings
        return (
            settings.status.current.state is State.READY
            and {e.key: e.decode() for e in settings._state.entries.values()} == self.raw
            and settings.current == self.good
            and bool(settings.rejected) == (object_of(self.raw) is None)
        )

    @precondition(lambda self: not self.is_away)
    @rule(key=keys, value=values)
    def patch(self, key, value):
        wanted = object_of(self.raw | {key: value})
        path = key.removeprefix("app/").replace("/", ".")
        if wanted is None:
            with pytest.raises(InvalidValue):
                self.settings.patch({path: value})
        else:
            self.settings.patch({path: value})
            assert self.settings.current == wanted, "in force on return"
            self.raw[key] = value
        self.sync()

    @rule(low=st.integers(0, 3))
    def override(self, low):
        before = self.settings.current
        if self.settings.rejected:
            with suppress(InvalidValue), overriding(self.settings, low=low):
                assert self.settings.current.low == low
        elif low <= before.high:
            with overriding(self.settings, low=low):
                assert self.settings.current == before.model_copy(update={"low": low})
        assert self.settings.current == before

    @invariant()
    def the_last_good_object_is_in_force(self):
        assert self.settings.current == self.good
        self.store.flush()
        assert self.told == self.good


@searched((ViewMachine, 120, 30), (BindingMachine, 120, 30))
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps):
    search(machine, examples, steps)
