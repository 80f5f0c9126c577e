"""Calls of a Source: translated errors, fair turns, and calls that hang."""

import threading

import pytest

from datastream import DatastreamError, InvalidKey, SourceUnavailable, StoreClosed
from datastream._watch import calls as module
from datastream._watch.calls import Calls, FairLock
from datastream.sources.memory import MemorySource
from datastream.testing import TIMEOUT
from datastream.testing._tools import eventually


class Foreign(Exception):
    """What a client library below a source raises."""


class Translating(MemorySource):
    def translate(self, error, key):
        return SourceUnavailable(f"away, at {key}") if isinstance(error, Foreign) else error


def raising(error):
    def call():
        raise error

    return call


def test_foreign_errors_are_translated_with_their_key():
    calls = Calls(Translating(), "store")
    with pytest.raises(SourceUnavailable, match="at k") as caught:
        calls("k", raising(Foreign()))
    assert isinstance(caught.value.__cause__, Foreign)


def test_what_no_source_declares_says_that_it_is_a_bug():
    calls = Calls(Translating(), "store")
    with pytest.raises(DatastreamError, match=r"store: unexpected ZeroDivisionError.*bug"):
        calls(None, raising(ZeroDivisionError("x")))


def test_errors_of_ours_stay_as_they_are():
    error = SourceUnavailable("as raised")
    with pytest.raises(SourceUnavailable) as caught:
        Calls(Translating(), "store")(None, raising(error))
    assert caught.value is error


def test_a_closed_store_makes_no_call():
    calls = Calls(MemorySource(), "store")
    calls.closed = module.CLOSED
    with pytest.raises(StoreClosed):
        calls(None, raising(AssertionError("called")))


def test_a_call_that_does_not_return_hangs(monkeypatch):
    monkeypatch.setattr(module, "HANGS_AFTER", 0.0)
    calls = Calls(MemorySource(), "store")
    began, go = threading.Event(), threading.Event()

    def hang():
        began.set()
        assert go.wait(TIMEOUT)

    thread = threading.Thread(target=lambda: calls(None, hang))
    thread.start()
    assert began.wait(TIMEOUT)
    eventually(calls.hangs, "it is overdue")
    assert not calls.await_end(0.001)
    go.set()
    assert calls.await_end(TIMEOUT)
    assert not calls.hangs()
    thread.join(TIMEOUT)


def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    lock = FairLock()
    order, threads = [], []
    with lock.held("store"):
        for number in range(5):
            asked = len(lock._waiting)

            def take(number=number):
                with lock.held("store"):
                    order.append(number)

            thread = threading.Thread(target=take)
            thread.start()
            threads.append(thread)
            eventually(lambda n=asked: len(lock._waiting) == n + 1, "it waits")
    for thread in threads:
        thread.join(TIMEOUT)
    assert order == [0, 1, 2, 3, 4]


def test_a_turn_that_never_comes_is_an_error_and_is_given_to_no_dead(monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.01)
    lock = FairLock()
    with lock.held("store"):
        caught = []

        def take():
            try:
                with lock.held("store"):
                    caught.append("held")
            except SourceUnavailable as error:
                caught.append(error)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join(TIMEOUT)
        assert isinstance(caught[0], SourceUnavailable)
    with lock.held("store"):
        pass


def test_that_a_backend_is_away_is_no_news_once_the_store_is_closed():
    calls = Calls(Translating(), "store")
    calls.closed = "this store was closed"
    for error in (SourceUnavailable("the connection is lost"), ConnectionError("reset")):
        assert isinstance(calls.translate(error, None), StoreClosed)
    assert isinstance(calls.translate(InvalidKey("no key"), None), InvalidKey)
