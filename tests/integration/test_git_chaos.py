"""Processes that die, and processes that push against each other. Long runs."""

import signal
import subprocess
import sys

import pytest

import datastream
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)
from tests.servers.git_http import PASSWORD, USER, GitServer

WRITER = """
import sys, datastream
url, name, count, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
with datastream.open(url, **options) as store:
    for number in range(count):
        store.put(f"{name}/{number % 50}/{number}", f"{name} {number}")
        print(number, flush=True)
"""


def writer(url, name, count, **options):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, name, str(count), repr(options)],
        stdout=subprocess.PIPE,
        text=True,
    )


def acknowledged(process):
    return [int(line) for line in process.stdout.read().split()]


def check_linear(repository, count):
    assert repository.git("rev-list", "--count", "main") == str(count)
    assert repository.git("rev-list", "--count", "--merges", "main") == "0"
    assert len(repository.files("main")) == count


def kill_after(process, lines):
    """SIGKILL once `lines` puts were acknowledged; how many were in the end."""
    for _ in range(lines):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.stdout.close()
    process.wait()
    return max([last, *(int(line) for line in rest[:-1])]) + 1


@pytest.mark.parametrize("bare", [True, False])
def test_killed_while_putting(tmp_path, bare):
    _kill_and_check(tmp_path, bare, [3, 11, 20])


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bare", [True, False])
def test_killed_in_the_middle_of_a_thousand_puts(tmp_path, bare):
    _kill_and_check(tmp_path, bare, [50, 173, 333, 512, 700])


def _kill_and_check(tmp_path, bare, points):
    repository = Repository.new(tmp_path / "repository", bare=bare)
    total = 0
    for number, lines in enumerate(points):
        done = kill_after(writer(f"git:{repository.path}", f"w{number}", 1000), lines)
        # As after any crash of a git program, locks are for people to remove: not those of refs.
        for lock in list(repository.path.rglob("*.lock")):
            if "refs" not in lock.parts:
                lock.unlink()
        repository.fsck()
        files = repository.files("main")
        ours = {f"w{number}/{n % 50}/{n}".encode() for n in range(done)}
        assert ours <= files.keys(), "an acknowledged put is lost"
        # At most the one put that was under way is there besides.
        total = len(files) - total
        assert len(ours) <= total <= len(ours) + 1
        total = len(files)
    with datastream.open(f"git:{repository.path}") as store:
        store["after"] = 1
        assert len(store) == total + 1


def test_two_processes_in_one_local_repository(tmp_path):
    repository = Repository.new(tmp_path / "repository")
    _both_write(repository, f"git:{repository.path}", 30)
    assert repository.git("status", "--porcelain") == ""


def test_two_processes_push_to_one_remote(tmp_path):
    _push_from_two(tmp_path, 15, share=False)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", [False, True])
def test_two_processes_push_200_commits_each(tmp_path, share):
    _push_from_two(tmp_path, 200, share=share)


def _push_from_two(tmp_path, count, *, share):
    repository = Repository.new(tmp_path / "served" / "bare.git", bare=True)
    repository.git("config", "http.receivepack", "true")
    server = GitServer(repository.path.parent)
    try:
        _both_write(
            repository,
            f"git+{server.url}/bare.git",
            count,
            caches=None if share else (str(tmp_path / "one"), str(tmp_path / "two")),
            username=USER,
            password=PASSWORD,
        )
    finally:
        server.close()


def _both_write(repository, url, count, *, caches=None, **options):
    processes = [
        writer(url, name, count, **options, **({"cache": caches[n]} if caches else {}))
        for n, name in enumerate(("one", "two"))
    ]
    try:
        for process in processes:
            assert acknowledged(process) == list(range(count))
            assert process.wait() == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    check_linear(repository, 2 * count)
