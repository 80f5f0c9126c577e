"""Writes that wait out an outage of their backend."""

import asyncio
import threading
import time

import pytest

from datastream import (
    InvalidValue,
    KeyNotFound,
    RevisionConflict,
    SourceUnavailable,
    Store,
    StoreClosed,
)
from datastream.sources.memory import MemorySource

WAIT = 30.0


class Away(MemorySource):
    """Fails so many writes, after doing them if `lost`; notes the ids of all."""

    instant = False

    def __init__(self, failures, *, lost=False):
        super().__init__()
        self.failures = failures
        self.lost = lost
        self.ids = []
        self.failed = threading.Event()

    def write(self, writes):
        self.ids.append({write.id for write in writes})
        if self.failures:
            self.failures -= 1
            if self.lost:
                super().write(writes)
            self.failed.set()
            raise SourceUnavailable("away")
        return super().write(writes)


@pytest.fixture(params=["put", "aput"])
def put(request):
    """`Store.put`, or its twin."""
    if request.param == "put":
        return Store.put
    return lambda store, *args, **options: asyncio.run(store.aput(*args, **options))


def test_a_put_without_patience_fails_at_once(put):
    source = Away(1)
    with Store(source) as store:
        with pytest.raises(SourceUnavailable):
            put(store, "k", 1)
        assert source.ids == [{""}]


def test_a_put_is_tried_again_under_one_id_until_the_backend_is_back(put):
    source = Away(3)
    with Store(source) as store:
        assert put(store, "k", 1, expect="", wait=WAIT).value == b"1"
        assert store["k"] == 1
    assert len(source.ids) == 4
    assert len(set.union(*source.ids)) == 1
    assert source.ids[0] != {""}


def test_patience_ends(put):
    source = Away(10**6)
    with Store(source) as store:
        begin = time.monotonic()
        with pytest.raises(SourceUnavailable, match="away"):
            put(store, "k", 1, wait=1.0)
        assert time.monotonic() - begin < WAIT
    assert len(source.ids) > 1


def test_other_errors_end_it_at_once(put):
    with Store(Away(0)) as store:
        store["k"] = 1
        with pytest.raises(RevisionConflict) as error:
            put(store, "k", 2, expect="", wait=WAIT)
        assert "earlier attempt" not in str(error.value)
        with pytest.raises(InvalidValue):
            put(store, "k", 2, wait=-1)


def test_a_conflict_after_a_lost_answer_says_that_it_may_be_its_own(put):
    with Store(Away(1, lost=True)) as store:
        with pytest.raises(RevisionConflict, match="an earlier attempt got no answer"):
            put(store, "k", 1, expect="", wait=WAIT)
        store._source.failures = 1
        with pytest.raises(KeyNotFound, match="an earlier attempt got no answer"):
            store.delete("k", wait=WAIT)


def test_all_writing_calls_have_patience():
    source = Away(0)
    with Store(source) as store:
        for call in (
            lambda: store.put_many({"a": 1, "b": 2}, wait=WAIT),
            lambda: asyncio.run(store.aput_many({"c": 1}, wait=WAIT)),
            lambda: store.delete("a", wait=WAIT),
            lambda: asyncio.run(store.adelete("b", wait=WAIT)),
        ):
            source.failures = 1
            call()
        assert dict(store) == {"c": 1}


def test_closing_the_store_ends_the_wait():
    source = Away(10**6)
    store = Store(source)
    failed = []

    def put():
        with pytest.raises(StoreClosed):
            store.put("k", 1, wait=3600)
        failed.append(True)

    thread = threading.Thread(target=put)
    thread.start()
    assert source.failed.wait(WAIT)
    store.close()
    thread.join(WAIT)
    assert failed
