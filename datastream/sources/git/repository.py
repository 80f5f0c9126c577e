"""A repository whose configuration git understands, and dulwich too."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dulwich.config import ConfigFile, StackedConfig, env_config
from dulwich.file import SharedPerm
from dulwich.repo import Repo

from datastream.errors import DatastreamError
from datastream.sources.git.errors import DAMAGE

_WITH_UNIT = re.compile(rb"\s*([+-]?\d+)([kmg])\s*", re.IGNORECASE)
_UNITS = {b"k": 1 << 10, b"m": 1 << 20, b"g": 1 << 30}
_VERSION = (b"core",), b"repositoryformatversion"
_EXTENSIONS = (b"extensions",)
_HONOURED = (b"worktreeconfig", b"partialclone", b"preciousobjects", b"objectformat")
"""Extensions that count in repositories of version 0, too."""
_GRAFTS = os.path.join("info", "grafts")  # noqa: PTH118
_BIG_FILES = (b"core",), b"bigFileThreshold"
"""From what size on git compresses a file in another way; dulwich refuses such a file."""
_UNLIMITED = b"%d" % (1 << 62)


class BadConfig(DatastreamError):
    """What git is configured with cannot be read."""


class TolerantRepo(Repo):
    """A `Repo` whose configuration is read as git reads it."""

    def get_config(self) -> ConfigFile:
        return _completed(super().get_config(), self.controldir())

    def get_config_stack(self) -> StackedConfig:
        """Everything that git is configured with, what counts most first."""
        with _config_errors():
            conditions = self._get_config_condition_matchers()
            of_user = [
                ConfigFile.from_path(os.fspath(found.path or ""), condition_matchers=conditions)
                for found in StackedConfig.default_backends()
            ]
            given = env_config(os.environ)
            local = self.get_config()
        return StackedConfig([*([given] if given else []), local, *of_user], writable=local)

    def get_named_file(self, path: Any, basedir: str | None = None) -> Any:
        # git has given up grafts, and they are not followed here.
        return None if path == _GRAFTS else super().get_named_file(path, basedir)


def is_bare(repo: Repo) -> bool:
    """Whether the folder that `repo` was opened in has no files of a branch."""
    if repo.bare or repo.commondir() != repo.controldir():
        return repo.bare
    # One beside whose folder only linked work trees stand: a file .git leads to it.
    return bool(repo.get_config().get_boolean((b"core",), b"bare", False))


def user_config() -> StackedConfig:
    """What git is configured with for everything that this user does."""
    with _config_errors():
        return StackedConfig(StackedConfig.default_backends())


def configuration(common: str | Path, own: str | Path) -> ConfigFile:
    """What is configured in a repository, for one of its work trees."""
    return _completed(_read(Path(common, "config")), own)


def main_root(repo: Repo) -> Path | None:
    """The folder with the files of the main work tree; None if there is none."""
    common = Path(repo.commondir()).resolve()
    if common == Path(repo.controldir()).resolve():
        return None if is_bare(repo) else Path(repo.path).resolve()
    config = configuration(common, common)
    if config.get_boolean((b"core",), b"bare", False):
        return None
    try:
        return common / os.fsdecode(config.get((b"core",), b"worktree"))
    except KeyError:
        return common.parent if common.name == ".git" else None


def keeps_logs(repo: Repo) -> bool:
    """Whether git makes logs of refs: where people work."""
    config = repo.get_config()
    try:
        return config.get((b"core",), b"logAllRefUpdates").lower() == b"always" or bool(
            config.get_boolean((b"core",), b"logAllRefUpdates")
        )
    except KeyError:
        return not is_bare(repo)


class Layout(NamedTuple):
    """What is configured of a repository's files."""

    root: Path | None
    """The folder with the files of the main work tree; None if there is none."""
    keeps_logs: bool
    shared: SharedPerm | None
    """How files are made accessible to others; None leaves that to the umask."""


class LayoutNow:
    """The layout of a repository, whose configuration may change at any time.

    Safe to use from several threads.

    Args:
        repo: the repository; it is not used later.
        reopen: opens it once more.
    """

    def __init__(self, repo: Repo, reopen: Callable[[], Repo]) -> None:
        self._files = [
            Path(folder, name)
            for folder in dict.fromkeys((repo.commondir(), repo.controldir()))
            for name in ("config", "config.worktree")
        ]
        self._reopen = reopen
        self._known = self._signature(), _layout(repo)

    def __call__(self) -> Layout:
        """The layout now."""
        signature = self._signature()
        known, layout = self._known
        if signature != known:
            with closing(self._reopen()) as repo:
                layout = _layout(repo)
            self._known = signature, layout
        return layout

    def _signature(self) -> Hashable:
        """Changes when git writes its configuration."""
        return tuple(map(_written, self._files))


def _written(file: Path) -> Hashable:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _layout(repo: Repo) -> Layout:
    return Layout(main_root(repo), keeps_logs(repo), repo.object_store.shared_perm)


@contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except (*DAMAGE, OSError) as error:
        raise BadConfig(
            f"git's configuration cannot be read ({error}); see git config --list --show-origin"
        ) from error


def _read(path: Path) -> ConfigFile:
    try:
        return ConfigFile.from_path(str(path))
    except FileNotFoundError:
        return ConfigFile()


def _completed(config: ConfigFile, own: str | Path) -> ConfigFile:
    """With what is configured for the work tree only; numbers without units."""
    if config.get_boolean((b"extensions",), b"worktreeConfig", False):
        mine = _read(Path(own, "config.worktree"))
        for section in mine.sections():
            for name, value in mine.items(section):
                config.set(section, name, value)
    for section in list(config.sections()):
        for name, value in list(config.items(section)):
            found = _WITH_UNIT.fullmatch(value)
            if found is not None:
                number = int(found[1]) * _UNITS[found[2].lower()]
                config.set(section, name, b"%d" % number)
    if config.has_section(_BIG_FILES[0]):
        config.set(*_BIG_FILES, _UNLIMITED)
    _check_version(config)
    return config


def _check_version(config: ConfigFile) -> None:
    """Have the version written in decimal, and only extensions that count."""
    try:
        value = config.get(*_VERSION)
    except KeyError:
        version = 0
    else:
        try:
            version = int(value, 0)
        except ValueError:
            text = value.decode("utf-8", "replace")
            raise ValueError(f"core.repositoryformatversion is {text!r} and no number") from None
        config.set(*_VERSION, b"%d" % version)
    for name, value in list(config.items(_EXTENSIONS)):
        ignored = version == 0 and name.lower() not in _HONOURED
        known = name.lower() == b"noop" or (name.lower() == b"refstorage" and value == b"files")
        if ignored or known:
            config.remove(_EXTENSIONS, name)
