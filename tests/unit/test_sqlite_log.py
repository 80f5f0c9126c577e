"""When the write-ahead log of SQLite says that nothing was written."""

import os
import time

from datastream.sources.sqlite.side_files import WriteAheadLog


def log_of_age(path, seconds):
    then = time.time() - seconds
    os.utime(f"{path}-wal", (then, then))


def test_a_log_is_still_until_it_is_written(tmp_path):
    path = tmp_path / "x.db"
    log = WriteAheadLog(str(path))
    assert not log.is_still()
    (tmp_path / "x.db-wal").write_bytes(b"frame")
    log_of_age(path, 60)
    assert [log.is_still() for _ in range(3)] == [False, True, True]
    log_of_age(path, 50)
    assert [log.is_still() for _ in range(2)] == [False, True]
    log.doubt()
    assert [log.is_still() for _ in range(2)] == [False, True]


def test_a_log_that_was_written_just_now_may_have_been_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr("datastream.sources.sqlite.side_files.RECENT", 600)
    path = tmp_path / "x.db"
    (tmp_path / "x.db-wal").write_bytes(b"frame")
    log = WriteAheadLog(str(path))
    # The clock of the file may be behind by a tick, or ahead.
    for age in (1, -60):
        log_of_age(path, age)
        assert [log.is_still() for _ in range(2)] == [False, False]
