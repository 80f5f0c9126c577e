"""The dispatcher does work at once, also while others wait for the end of all work."""

import threading

import pytest

from datastream._watch import dispatcher as module
from datastream._watch.dispatcher import Dispatcher
from datastream.testing import TIMEOUT
from datastream.testing._tools import eventually


class Job:
    """Says when it runs, and runs until it is let go."""

    def __init__(self, *, blocks=False):
        self.began, self.go = threading.Event(), threading.Event()
        if not blocks:
            self.go.set()

    def deliver(self):
        self.began.set()
        self.go.wait(TIMEOUT)
        return False


@pytest.fixture
def dispatcher(monkeypatch):
    # A worker that is not woken would sleep for longer than any test.
    monkeypatch.setattr(module, "IDLE", 10 * TIMEOUT)
    dispatcher = Dispatcher("under test")
    yield dispatcher
    dispatcher.close(TIMEOUT)


def test_work_wakes_a_worker_although_others_wait_for_the_end_of_all_work(dispatcher):
    blocking = Job(blocks=True)
    dispatcher.submit(blocking)
    assert blocking.began.wait(TIMEOUT)
    flushing = threading.Thread(target=dispatcher.flush, args=(TIMEOUT,))
    flushing.start()
    eventually(lambda: dispatcher._drained._waiters, "it waits in flush")
    for _ in range(3):
        quick = Job()
        dispatcher.submit(quick)
        assert quick.began.wait(TIMEOUT)
        # The second worker has nothing to do, and sleeps.
        eventually(lambda: dispatcher._waiting, "a worker is idle")
    blocking.go.set()
    flushing.join(TIMEOUT)
    assert not flushing.is_alive()
