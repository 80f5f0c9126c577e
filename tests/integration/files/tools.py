"""Users, mounts and the files that a store leaves, for the tests of directories."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager

import pytest

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root to become")


def mount(*arguments):
    if subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here: that takes root with CAP_SYS_ADMIN")


def unmount(path):
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


@contextmanager
def tmpfs(path, options="size=1m"):
    path.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "none", path)
    try:
        yield path
    finally:
        unmount(path)


def open_way(path):
    """Let other users come as far as `path`."""
    for above in path.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o055)
