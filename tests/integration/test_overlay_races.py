"""Layers that change at the same moment while readers of an overlay come, go and come back."""

import random

import pytest

import datastream
from datastream import Operation, Store, overlay
from datastream.testing._tools import eventually, together

KEYS = [f"{folder}/{n}" for folder in "ab" for n in range(4)]
SELECTIONS = [(), ("a/",), ("b/1",), ("a/2", "b/")]

pytestmark = pytest.mark.usefixtures("quick_switches")


class Reader:
    """Keeps what it is given, and what of that it must not have been given."""

    def __init__(self, store, keys, since=None, had=()):
        self.store, self.keys = store, keys
        self.revisions = dict(had)
        self.cursor = None
        self.wrong = []
        self.subscription = store.watch_batches(*keys, since=since).subscribe(self._take)

    def _take(self, batch):
        if batch.reset:
            self.revisions.clear()
        for entry in batch.entries:
            if self.revisions.get(entry.key, "") == entry.revision:
                self.wrong.append(entry)
            if entry.operation is Operation.DELETE:
                self.revisions.pop(entry.key, None)
            else:
                self.revisions[entry.key] = entry.revision
        self.cursor = batch.cursor

    def is_current(self):
        state = self.store.snapshot(*self.keys)
        return self.revisions == {key: entry.revision for key, entry in state.items()}


def write(layers, seed, count):
    """Few keys and many removals, so that what is hidden is often shown again."""
    chance = random.Random(seed)
    for number in range(count):
        layer, key = chance.choice(layers), chance.choice(KEYS)
        if chance.random() < 0.5:
            layer.delete(key, missing_ok=True)
        elif chance.random() < 0.8:
            layer.put(key, f"{seed} {number}")
        else:
            layer.put_many(dict.fromkeys(chance.sample(KEYS, 3), f"{seed} {number}"))


def come_and_go(store, layers, seed, count, readers):
    chance = random.Random(seed)
    for number in range(count):
        first = Reader(store, chance.choice(SELECTIONS))
        first.subscription.dispose()
        store.flush()
        write(layers, f"{seed} {number}", 5)
        since = chance.choice([first.cursor, first.revisions])
        again = Reader(store, first.keys, dict(since) if since is first.revisions else since,
                       first.revisions)  # fmt: skip
        readers += [first, again]
        if chance.random() < 0.8:
            again.subscription.dispose()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "count", [4, pytest.param(300, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])]
)
def test_each_reader_is_told_what_is_news_to_it(tmp_path, count, nested):
    layers = [
        datastream.open("memory:"),
        datastream.open(f"sqlite:{tmp_path}/layer.db"),
        datastream.open("memory:"),
    ]
    stores: list[Store] = [overlay(*layers[1:])] if nested else []
    store = overlay(layers[0], *(stores or layers[1:]))
    readers = [Reader(store, keys) for keys in SELECTIONS]
    try:
        together(
            *(lambda seed=seed: write([*layers, store], seed, 10 * count) for seed in range(3)),
            *(
                lambda seed=seed: come_and_go(store, layers, seed, count, readers)
                for seed in range(3)
            ),
        )
        staying = [r for r in readers if not r.subscription.is_disposed]
        eventually(lambda: all(reader.is_current() for reader in staying), "all converge")
        assert not [reader.wrong for reader in readers if reader.wrong]
    finally:
        for one in (store, *stores, *layers):
            one.close()
