"""Which directories the operating system is asked to watch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from datastream.sources._common.wake import WakeEvent
from datastream.sources.files.notify import TreeNotifications

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has inotify")


def watches():
    """How many watches of inotify this process has."""
    found = 0
    for descriptor in Path("/proc/self/fdinfo").iterdir():
        try:
            text = descriptor.read_text()
        except OSError:
            continue
        found += text.count("inotify wd")
    return found


@pytest.fixture
def root(tmp_path):
    (tmp_path / "outside/many/below").mkdir(parents=True)
    (tmp_path / "root/sub").mkdir(parents=True)
    return tmp_path / "root"


@pytest.mark.parametrize("link", ["out", "sub/out"])
def test_a_link_that_leads_out_is_not_followed(root, link):
    (root / link).symlink_to(root.parent / "outside")
    (root / os.fsdecode(b"\xff")).mkdir()
    before = watches()
    notifications = TreeNotifications(str(root))
    try:
        assert watches() - before == 2
        (root / "sub/a").write_text("1")
        assert notifications.wait(WakeEvent(), 10) == {str(root / "sub/a")}
        assert not notifications.misses_folders()
        (root / "new").mkdir()
        assert notifications.misses_folders()
    finally:
        notifications.close()


def test_without_such_a_link_new_directories_are_watched_by_themselves(root):
    (root / "within").symlink_to("sub")
    notifications = TreeNotifications(str(root))
    try:
        (root / "new").mkdir()
        assert not notifications.misses_folders()
    finally:
        notifications.close()


@pytest.mark.parametrize("recursive", [True, False])
def test_a_directory_that_is_touched_is_a_doubt_only_where_what_is_in_it_is_watched(
    root, recursive
):
    notifications = TreeNotifications(str(root), recursive=recursive)
    try:
        os.utime(root / "sub")
        assert notifications.wait(WakeEvent(), 10) == {str(root / "sub")}
        assert notifications.is_doubtful == recursive
    finally:
        notifications.close()
