"""What git is configured with: who commits, and what others may read, as git itself takes it."""

import os

import pytest

import datastream
from datastream.errors import DatastreamError, ReadOnly, SourceUnavailable, Unsupported
from datastream.source import Write
from datastream.sources.git import GitSource, RemoteGitSource
from tests.repositories import ENVIRONMENT, Repository, git_environment  # noqa: F401  (a fixture)

IDENTITY = [name for name in ENVIRONMENT if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with a configuration of their own, and without any in the environment."""
    for name in (*IDENTITY, "EMAIL", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / ".gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    config.write_text("[user]\nname = Home\nemail = home@example.org\n")
    return config


@pytest.fixture
def repository(tmp_path):
    repository = Repository.new(tmp_path / "work")
    repository.commit({"a": "1"})
    return repository


def by_the_store(repository, **options):
    """Author and committer of a commit that a store makes."""
    with datastream.open(f"git:{repository.path}", **options) as store:
        assert dict(store)["a"] == 1
        store["b"] = b"1"
        store.delete("b")
    return repository.git("log", "-1", "--format=%an <%ae>, %cn <%ce>").split(", ")


def by_git(repository):
    """The same, as git would have it."""
    result = []
    for role in ("AUTHOR", "COMMITTER"):
        # Not through Repository.git, whose environment is that of the tests.
        with os.popen(f"git -C '{repository.path}' var GIT_{role}_IDENT") as answer:
            result.append(answer.read().rsplit(" ", 2)[0])
    return result


@pytest.mark.parametrize(
    ("home_config", "config", "environment"),
    [
        ("", "", {}),
        ("", "[author]\nname = A\n[committer]\nemail = c@example.org\n", {}),
        ("", "[user]\nname = Here\n[author]\nemail = a@example.org\n", {}),
        ("", "", {"GIT_AUTHOR_NAME": "Env", "GIT_COMMITTER_EMAIL": "env@example.org"}),
        ("", "[include]\npath = more\n", {}),
        ("", "[include]\npath = not-there\n", {}),
        ("", '[includeIf "gitdir:**/work/.git"]\npath = more\n', {}),
        ('[includeIf "gitdir:~/work/"]\npath = more\n', "", {}),
        ('[includeIf "gitdir:~/other/"]\npath = more\n', "", {}),
        ('[includeIf "onbranch:main"]\npath = more\n', "", {}),
        ("", "[extensions]\nworktreeConfig = true\n", {}),
        ('[user]\nname = "a<b. "\nemail = <x@example.org>\n', "", {}),
        ("[user]\nname = Jos\u00e9\nuseConfigOnly = true\n", "", {}),
        (
            "",
            "",
            {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "user.name",
                "GIT_CONFIG_VALUE_0": "Counted",
            },
        ),
    ],
)
def test_commits_are_by_whom_git_takes(
    repository, home, monkeypatch, home_config, config, environment
):
    for folder in (home.parent, repository.path / ".git"):
        (folder / "more").write_text(f"[user]\nname = More in {folder.name}\n")
    (repository.path / ".git/config.worktree").write_text("[user]\nname = Work tree\n")
    with home.open("a") as file:
        file.write(home_config)
    with (repository.path / ".git/config").open("a") as file:
        file.write(config)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert by_the_store(repository) == by_git(repository)


def test_options_count_more_than_what_git_knows(repository, home, monkeypatch):
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Env")
    found = by_the_store(repository, author="Given", email="g@example.org")
    assert found == ["Given <g@example.org>"] * 2


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("[user]\nuseConfigOnly = true\n", {}),
        ("[user]\nuseConfigOnly = true\nname = Only a name\n", {}),
        ("[user]\nname = <>\n", {}),
        ("[user]\nname = .,;\n", {}),
        ("[user]\nname =\n", {}),
        ("user]\n", {}),
        ("[user\n", {}),
        ("", {"GIT_AUTHOR_NAME": ""}),
        ("", {"GIT_CONFIG_COUNT": "many"}),
        ("", {"GIT_CONFIG_COUNT": "1"}),
    ],
)
@pytest.mark.parametrize(
    "remote", [False, pytest.param(True, marks=pytest.mark.chaos)], ids=["local", "remote"]
)
def test_an_identity_that_cannot_be_used_refuses_writing_only(
    repository, home, monkeypatch, config, environment, remote
):
    if remote and environment.get("GIT_CONFIG_COUNT"):
        pytest.skip("those are for a repository")
    url = f"git+file://{repository.path}" if remote else f"git:{repository.path}"
    head = repository.head()
    repository.git("branch", "other")
    repaired = home.read_text()
    home.write_text(config)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with datastream.open(url, branch="other" if remote else "") as store:
        before = dict(store)
        with pytest.raises(ReadOnly, match="git"):
            store["b"] = 1
        assert dict(store) == before
        assert str(store.status.current.state) != "FAILED"
        # Once repaired, it can be written.
        home.write_text(repaired)
        for name in environment:
            monkeypatch.delenv(name)
        store["b"] = 1
        assert store["b"] == 1
    assert repository.head("other^" if remote else "HEAD^") == head


# The repository's own.


@pytest.mark.parametrize(
    "config",
    [
        "[core]\n",
        "",
        "[core]\nrepositoryformatversion = 0x0\n",
        "[core]\nrepositoryformatversion = 1\n[extensions]\nnoop = true\n",
        "[core]\nrepositoryformatversion = 0\n[extensions]\nnobodyKnows = true\n",
        '[core]\nbare = false\n[remote "\xff"]\nurl = x\n',
        "\ufeff[core]\r\nbare = false\r\n",
    ],
)
def test_configurations_that_git_reads_are_read(repository, config):
    (repository.path / ".git/config").write_bytes(config.encode("utf-8"))
    repository.git("status")
    with datastream.open(f"git:{repository.path}") as store:
        store["b"] = 2
        assert dict(store) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("[core]\nrepositoryformatversion =\n", SourceUnavailable),
        ("[core]\nrepositoryformatversion\n", SourceUnavailable),
        ("[core]\nrepositoryformatversion = some\n", SourceUnavailable),
        ("[core]\nrepositoryformatversion = 2\n", Unsupported),
        ("[core]\nlooseCompression = much\n", SourceUnavailable),
        ("[core]\nlooseCompression = 99\n", SourceUnavailable),
        ("[core]\ncompression = -2\n", SourceUnavailable),
        ("\xff[", SourceUnavailable),
    ],
)
def test_configurations_that_git_refuses_are_refused(repository, config, kind):
    place = repository.path / ".git/config"
    kept = place.read_bytes()
    place.write_text(config)
    for opened in (GitSource, lambda path: RemoteGitSource(f"file://{path}")):
        with pytest.raises(DatastreamError, match=str(repository.path)) as caught:
            opened(repository.path)
        assert isinstance(caught.value, kind)
    place.write_bytes(kept)


# Who may read and write.


@pytest.mark.parametrize("mask", [0o022, 0o077, pytest.param(0o002, marks=pytest.mark.chaos)])
@pytest.mark.parametrize(
    "shared",
    [
        "false",
        "group",
        *(pytest.param(s, marks=pytest.mark.chaos) for s in ("all", "0660", "0664")),
    ],
)
def test_modes_are_those_that_git_sets(tmp_path, mask, shared):
    before = os.umask(mask)
    try:
        made = {}
        for name in ("git", "store", "file"):
            repository = Repository.new(tmp_path / name, bare=True)
            repository.git("config", "core.sharedRepository", shared)
            repository.git("config", "core.logAllRefUpdates", "true")
            old = set(repository.path.rglob("*"))
            if name == "git":
                work = Repository.new(tmp_path / "pushing")
                work.commit({"deep/a": "1"})
                work.git("push", "-q", str(repository.path), "HEAD:deep/er/main")
            else:
                kind = GitSource if name == "store" else RemoteGitSource
                prefix = "" if name == "store" else "file://"
                source = kind(f"{prefix}{repository.path}", branch="deep/er/main")
                source.write([Write("deep/a", b"1")])
                source.close()
            made[name] = {
                (_kind_of(path.relative_to(repository.path)), path.stat().st_mode)
                for path in set(repository.path.rglob("*")) - old
            }
    finally:
        os.umask(before)
    assert made["store"] == made["file"] == made["git"]


def test_what_is_configured_while_a_store_is_open_counts(repository):
    before = os.umask(0o077)
    try:
        with datastream.open(f"git:{repository.path}") as store:
            store["a"] = "x"
            repository.git("config", "core.sharedRepository", "group")
            repository.git("config", "core.logAllRefUpdates", "false")
            (repository.path / ".git/logs/refs/heads/main").unlink()
            old = set(repository.path.rglob(".git/objects/??"))
            store["b"] = "y"
            new = set(repository.path.rglob(".git/objects/??")) - old
            assert new
            assert {oct(path.stat().st_mode) for path in new} == {"0o42770"}
            assert not (repository.path / ".git/logs/refs/heads/main").exists()
            repository.git("config", "core.logAllRefUpdates", "true")
            store["b"] = "z"
            assert "Put b" in repository.git("reflog", "main")
    finally:
        os.umask(before)


def _kind_of(path):
    """Where objects lie depends on their ids."""
    return path.parts[0] if path.parts[0] == "objects" else str(path)
