"""Waiting for the end of a thread beside others."""

import threading

import pytest

from datastream._threads import join


class Tripped(threading.Thread):
    """One whose first `join` meets another's, as it may before Python 3.13."""

    trips = None

    def join(self, timeout=None):
        error, self.trips = self.trips, None
        if error is not None:
            raise error
        super().join(timeout)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("release unlocked lock")])
def test_who_waits_beside_another_is_not_told_of_its_lock(error):
    thread = Tripped(target=lambda: None)
    thread.start()
    thread.trips = error
    join(thread, 30)
    assert not thread.is_alive()


def test_what_is_no_such_trouble_is_raised():
    with pytest.raises(RuntimeError, match="before it is started"):
        join(threading.Thread())
