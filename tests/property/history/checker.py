"""Checks what subscribers received against what really happened.

Pure: no threads, no time, nothing of the library. The truth is a list of commits kept by those
who wrote them, or by the backend (an audit table, a commit log). A `Line` is a set of keys with
their commits in one total order; several lines exist where several writers wrote keys of their own
and nobody recorded the order between them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

PUT, DELETE = "PUT", "DELETE"


class Got(NamedTuple):
    """One entry as a subscriber received it."""

    key: str
    operation: str
    revision: str = ""
    value: bytes | None = None


class GotBatch(NamedTuple):
    """One batch as a subscriber received it."""

    entries: tuple[Got, ...]
    cursor: str = ""
    initial: bool = False
    reset: bool = False


class Asked(NamedTuple):
    """A selection, matched by a matcher of our own."""

    keys: tuple[str, ...] = ()
    match: tuple[str, ...] = ()

    def matches(self, key: str) -> bool:
        if not self.keys and not self.match:
            return True
        return _matches(self, key)


@lru_cache(maxsize=1 << 17)
def _matches(asked: Asked, key: str) -> bool:
    if any(key.startswith(k) if k.endswith("/") else key == k for k in asked.keys):
        return True
    return any(glob_matches(glob, key) for glob in asked.match)


def glob_matches(glob: str, text: str) -> bool:
    """``*`` and ``?`` stay within a segment, ``**`` crosses slashes, ``**/`` may match nothing."""
    if not glob:
        return not text
    if glob.startswith("**/"):
        rest = glob[3:]
        starts = [0] + [at + 1 for at, char in enumerate(text) if char == "/"]
        return any(glob_matches(rest, text[at:]) for at in starts)
    if glob.startswith("**"):
        return any(glob_matches(glob[2:], text[at:]) for at in range(len(text) + 1))
    if glob.startswith("*"):
        end = text.find("/")
        end = len(text) if end < 0 else end
        return any(glob_matches(glob[1:], text[at:]) for at in range(end + 1))
    if not text or (glob[0] == "?" and text[0] == "/"):
        return False
    return glob[0] in ("?", text[0]) and glob_matches(glob[1:], text[1:])


@dataclass
class Received:
    """What one subscriber asked for and received."""

    name: str
    asked: Asked = field(default_factory=Asked)
    batches: list[GotBatch] = field(default_factory=list)
    since: str | None = None
    """None, "cursor" or "map": how it was resumed."""
    had: dict[str, str] = field(default_factory=dict)
    """Revision of each key that it had before, when resumed."""
    had_values: dict[str, bytes] = field(default_factory=dict)
    """Likewise the values, where they are known."""
    acknowledged: int = 0
    """How many of the acknowledged writes were so before it subscribed."""
    offered: list[tuple[int, str, bytes]] = field(default_factory=list)
    """(batches, key, value): a write through the same store that returned, and was flushed, when
    that many batches had come."""
    final: bool = False
    """It lived until all was quiet: what it has must be the final state."""
    sees_atomic: bool = True
    """False for a reader of one key or of parts, for which no common moment is promised."""


@dataclass
class Line:
    """Keys whose commits have one known order."""

    commits: list[dict[str, bytes | None]]
    atomic: bool = True
    """Every state that a subscriber has must be the one after some commit."""


@dataclass
class Truth:
    """All that happened."""

    lines: list[Line]
    groups: list[Line] = field(default_factory=list)
    """Keys that were always written together, for backends that promise no common moment of
    others: the same commits as in `lines`, reduced to these keys."""
    acknowledged: list[tuple[str, bytes]] = field(default_factory=list)
    """(key, value) of the puts that returned to their writers, in the order in which they did."""
    may_reset: bool = True
    """The backend has no log: a cursor may be answered with the full state."""
    exact_resumes: bool = True
    content_revisions: bool = False
    """A key that comes back to an earlier value has its earlier revision again. What it held at a
    cursor is then given once more, if it went and came back while the resume was joining."""
    """What follows a cursor names no key that was not there, and is not there any more."""

    def final(self) -> dict[str, bytes]:
        state: dict[str, bytes] = {}
        for line in self.lines:
            for commit in line.commits:
                _apply(state, commit)
        return state


class Violation(NamedTuple):
    """A promise that was broken."""

    promise: str
    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.who}: {self.text}"


def check(truth: Truth, received: Iterable[Received]) -> list[Violation]:
    """Every broken promise, at most a few for each subscriber."""
    pasts = _pasts(truth)
    found: list[Violation] = []
    for one in received:
        found += [Violation(promise, one.name, text) for promise, text in _check(truth, pasts, one)]
    return found


def _check(truth: Truth, pasts: _Pasts, one: Received) -> Iterator[tuple[str, str]]:
    yield from _filtered(one)
    yield from _initial(truth, one)
    yield from _unique(truth, one)
    yield from _ordered(pasts, one)
    yield from _fresh(truth, pasts, one)
    yield from _offered(pasts, one)
    if one.final:
        yield from converged(truth, one)
    if one.sees_atomic:
        for line in (*truth.lines, *truth.groups):
            if line.atomic:
                yield from _moments(line, one)


# The single promises.


def _filtered(one: Received) -> Iterator[tuple[str, str]]:
    for number, entry in _entries(one):
        if not one.asked.matches(entry.key):
            yield "filtered", f"{entry.key!r} in batch {number} was not asked for: {one.asked}"
            return
    for number, batch in enumerate(one.batches):
        if len({entry.key for entry in batch.entries}) < len(batch.entries):
            yield "batch", f"a key twice in batch {number}: {_shown(batch)}"
            return


def _initial(truth: Truth, one: Received) -> Iterator[tuple[str, str]]:
    for number, batch in enumerate(one.batches):
        if batch.initial != (number == 0):
            yield "initial", f"batch {number} has initial={batch.initial}"
            return
        if batch.reset and (number or one.since != "cursor"):
            yield "initial", f"batch {number} has reset although since is {one.since}"
    if one.final and not one.batches:
        yield "initial", "no initial batch came"
    if not one.batches:
        return
    first = one.batches[0]
    if first.reset and not truth.may_reset:
        yield "resumable", "reset although the log reaches back that far"
    if one.since is None or first.reset:
        gone = [entry.key for entry in first.entries if entry.operation == DELETE]
        if gone:
            yield "initial", f"DELETEs in a full state: {gone[:5]}"


def _unique(truth: Truth, one: Received) -> Iterator[tuple[str, str]]:
    has = dict(one.had)
    for number, batch in enumerate(one.batches):
        if batch.reset:
            has = {}
        for entry in batch.entries:
            key = entry.key
            if entry.operation == DELETE:
                blind = number == 0 and one.since == "cursor" and not truth.exact_resumes
                if has.pop(key, None) is None and not blind:
                    yield "unique", f"DELETE of {key!r}, which it did not have, in batch {number}"
                    return
            elif has.get(key) == entry.revision:
                if number == 0 and one.since == "cursor" and truth.content_revisions:
                    continue
                where = "resumed with" if number == 0 else "given before"
                yield "unique", f"{key!r} {entry.revision!r} {where}, again in batch {number}"
                return
            else:
                has[key] = entry.revision


def _ordered(pasts: _Pasts, one: Received) -> Iterator[tuple[str, str]]:
    places: dict[str, int] = {}
    for key, value in one.had_values.items():
        places[key] = pasts.place(key, value, 0) or 0
    for number, entry in _entries(one):
        value = None if entry.operation == DELETE else entry.value
        start = places.get(entry.key, 0)
        place = pasts.place(entry.key, value, start)
        if place is None:
            before = pasts.place(entry.key, value, 0)
            what = "never held" if before is None else f"held only before (at {before} < {start})"
            yield "ordered", f"{entry.key!r} {what} {value!r:.60}, given in batch {number}"
            return
        places[entry.key] = place


def _fresh(truth: Truth, pasts: _Pasts, one: Received) -> Iterator[tuple[str, str]]:
    """The first batch shows all that was acknowledged before."""
    if not one.batches:
        return
    newest: dict[str, int] = {}
    for key, value in truth.acknowledged[: one.acknowledged]:
        if one.asked.matches(key):
            # The first place of a value that comes back is the weaker claim.
            newest[key] = max(newest.get(key, 0), pasts.place(key, value, 0) or 0)
    state = {} if one.batches[0].reset else dict(one.had_values)
    _take(state, one.batches[0])
    for key, least in newest.items():
        if pasts.place(key, state.get(key), least) is None:
            value = state.get(key)
            yield "initial", f"{key!r} = {value!r:.60} is older than a write acknowledged before"
            return


def _offered(pasts: _Pasts, one: Received) -> Iterator[tuple[str, str]]:
    state = dict(one.had_values)
    at = 0
    for batches, key, value in one.offered:
        while at < batches:
            _take(state, one.batches[at])
            at += 1
        least = pasts.place(key, value, 0)
        if not one.asked.matches(key) or least is None:
            continue
        # Who looks after the key is gone again never had it.
        if pasts.place(key, state.get(key), least) is None:
            yield "read your writes", f"{key!r} = {value!r:.60} was not offered when put returned"
            return


def converged(truth: Truth, one: Received) -> Iterator[tuple[str, str]]:
    """What it has now is all there is, and nothing else."""
    state = dict(one.had_values)
    for batch in one.batches:
        _take(state, batch)
    wanted = {key: value for key, value in truth.final().items() if one.asked.matches(key)}
    if state != wanted:
        yield "converges", differences(state, wanted)


def _moments(line: Line, one: Received) -> Iterator[tuple[str, str]]:
    """After each batch, the state is one that existed, and never an earlier one than before.

    Walks along the commits, and counts the keys that differ between both.
    """
    walk = _Walk(line, one)
    if not walk.commits:
        return
    known = {key for commit in walk.commits for key in commit}
    state: dict[str, bytes] = {}
    _start(state, one.had_values, known)
    for number, batch in enumerate(one.batches):
        if batch.reset:
            state = {}
        for entry in batch.entries:
            if entry.key in known:
                _set(state, entry.key, entry.value if entry.operation == PUT else None)
        walk.compare(state, known if number == 0 else {e.key for e in batch.entries} & known)
        if not walk.advance(state):
            yield "atomic", f"no moment had the state after batch {number}: {walk.explain(state)}"
            return


class _Walk:
    """A place among the commits, and in which keys a subscriber's state differs from there."""

    def __init__(self, line: Line, one: Received) -> None:
        self.commits: list[dict[str, bytes | None]] = []
        for commit in line.commits:
            part = {key: value for key, value in commit.items() if one.asked.matches(key)}
            if part:
                self.commits.append(part)
        self.place = 0
        self.state: dict[str, bytes] = {}
        self.differ: set[str] = set()
        self._begin = 0
        self._nearest: tuple[int, int, str] = (0, 0, "")

    def compare(self, state: Mapping[str, bytes], keys: Iterable[str]) -> None:
        for key in {*keys, *self.differ}:
            self._compare_key(state, key)

    def _compare_key(self, state: Mapping[str, bytes], key: str) -> None:
        if state.get(key) == self.state.get(key):
            self.differ.discard(key)
        else:
            self.differ.add(key)

    def advance(self, state: Mapping[str, bytes]) -> bool:
        self._nearest = (len(self.differ), self.place, self._shown(state))
        self._begin = self.place
        while self.differ:
            if self.place == len(self.commits):
                return False
            commit = self.commits[self.place]
            _apply(self.state, commit)
            for key in commit:
                self._compare_key(state, key)
            self.place += 1
            if len(self.differ) < self._nearest[0]:
                self._nearest = (len(self.differ), self.place, self._shown(state))
        return True

    def _shown(self, state: Mapping[str, bytes]) -> str:
        return differences(state, self.state, sorted(self.differ)[:4])

    def explain(self, state: Mapping[str, bytes]) -> str:
        count, place, shown = self._nearest
        return (
            f"was at commit {self._begin} of {len(self.commits)}; "
            f"nearest is {place}, {count} keys differ: {shown}"
        )


# Tools.


class _Pasts:
    """For each key and value, the places at which the key held it; place 0 is before all."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, bytes | None], list[int]] = {}
        self.known: set[str] = set()

    def add(self, key: str, value: bytes | None, place: int) -> None:
        if key not in self.known:
            self.known.add(key)
            self.places[key, None] = [0]
        self.places.setdefault((key, value), []).append(place)

    def place(self, key: str, value: bytes | None, start: int) -> int | None:
        """The first place from `start` on at which `key` held `value`."""
        places = self.places.get((key, value))
        if places is None:
            return 0 if value is None and key not in self.known else None
        at = bisect_left(places, start)
        return places[at] if at < len(places) else None


def _pasts(truth: Truth) -> _Pasts:
    pasts = _Pasts()
    for line in truth.lines:
        # Places of a key are counted densely: what a place stands for lasts until the next one.
        counts: dict[str, int] = {}
        last: dict[str, bytes | None] = {}
        for commit in line.commits:
            for key, value in commit.items():
                if last.get(key) == value:
                    continue
                last[key] = value
                counts[key] = counts.get(key, 0) + 1
                pasts.add(key, value, counts[key])
    return pasts


def _entries(one: Received) -> Iterator[tuple[int, Got]]:
    for number, batch in enumerate(one.batches):
        for entry in batch.entries:
            yield number, entry


def _start(state: dict[str, bytes], had: Mapping[str, bytes], known: set[str]) -> None:
    state.update((key, value) for key, value in had.items() if key in known)


def _take(state: dict[str, bytes], batch: GotBatch) -> None:
    if batch.reset:
        state.clear()
    for entry in batch.entries:
        _set(state, entry.key, entry.value if entry.operation == PUT else None)


def _set(state: dict[str, bytes], key: str, value: bytes | None) -> None:
    if value is None:
        state.pop(key, None)
    else:
        state[key] = value


def _apply(state: dict[str, bytes], commit: Mapping[str, bytes | None]) -> None:
    for key, value in commit.items():
        _set(state, key, value)


def differences(
    state: Mapping[str, bytes], wanted: Mapping[str, bytes], keys: Sequence[str] | None = None
) -> str:
    """A few keys in which both differ, as text."""
    if keys is None:
        keys = sorted(k for k in {*state, *wanted} if state.get(k) != wanted.get(k))
    shown = [f"{k!r}: has {state.get(k)!r:.50}, not {wanted.get(k)!r:.50}" for k in keys[:5]]
    return f"{'; '.join(shown)}{'; …' if len(keys) > 5 else ''}"


def _shown(batch: GotBatch) -> str:
    return f"{[(e.key, e.operation, e.revision) for e in batch.entries[:6]]}"
