"""`Puts` is the sequence of writes that puts its entries."""

from datetime import UTC, datetime

import pytest

from datastream import Entry, InvalidKey, InvalidValue, ReadOnly, Store
from datastream._columns import EntryColumns
from datastream._puts import Puts
from datastream.source import Write
from datastream.sources.memory import MemorySource

TIME = datetime(2026, 11, 26, tzinfo=UTC)
GOOD = [("b", b"2", "int", TIME), ("a", b"", "str", None), ("é/d", b"x", "text/x", TIME)]


def puts(*rows):
    return Puts.of(EntryColumns.of([Entry(*row, f"r{n}") for n, row in enumerate(rows)]))


def test_it_is_a_sequence_of_writes_in_the_order_of_their_keys():
    writes = sorted(Write(*row[:3], updated_at=row[3]) for row in GOOD)
    made = puts(*GOOD)
    assert list(made) == writes
    assert {type(write) for write in made} == {type(made[0])} == {Write}
    assert [made[n] for n in range(3)] == writes
    assert list(made[1:]) == writes[1:]
    assert isinstance(made[1:], Puts)
    assert len(made) == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_store_takes_them(count):
    with Store(MemorySource()) as store:
        stored = store._write(puts(*GOOD[:count]))
        assert {entry.key: entry for entry in stored} == store.snapshot()
        assert len(stored) == count


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (("", b"", "str", None), InvalidKey),
        (("c/", b"", "str", None), InvalidKey),
        (("c\0", b"", "str", None), InvalidKey),
        (("c\0d", b"", "str", None), InvalidKey),
        (("c" * 20_000, b"", "str", None), InvalidKey),
        (("\ud800", b"", "str", None), InvalidKey),
        (("a", b"", "str", None), InvalidKey),
        (("c", b"", "in\nt", None), InvalidValue),
        (("c", b"", "str", TIME.replace(tzinfo=None)), InvalidValue),
    ],
)
def test_what_no_store_takes_is_refused_among_good_ones(row, error):
    with Store(MemorySource()) as store:
        for place in range(4):
            with pytest.raises(error):
                store._write(puts(*[*GOOD[:place], row, *GOOD[place:]]))
        assert not store.snapshot()


def test_a_store_that_can_only_be_read_refuses_them():
    source = MemorySource()
    source.features = frozenset()
    with Store(source) as store, pytest.raises(ReadOnly):
        store._write(puts(*GOOD))
