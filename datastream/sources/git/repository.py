"""A repository whose configuration git understands, and dulwich too."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dulwich.config import ConfigFile
from dulwich.repo import Repo

_WITH_UNIT = re.compile(rb"\s*([+-]?\d+)([kmg])\s*", re.IGNORECASE)
_UNITS = {b"k": 1 << 10, b"m": 1 << 20, b"g": 1 << 30}
_BIG_FILES = (b"core",), b"bigFileThreshold"
"""From what size on git compresses a file in another way; dulwich refuses such a file."""
_UNLIMITED = b"%d" % (1 << 62)


class TolerantRepo(Repo):
    """A `Repo` whose configuration is read as git reads it."""

    def get_config(self) -> ConfigFile:
        return _completed(super().get_config(), self.controldir())


def configuration(common: str | Path, own: str | Path) -> ConfigFile:
    """What is configured in a repository, for one of its work trees."""
    return _completed(_read(Path(common, "config")), own)


def main_root(repo: Repo) -> Path | None:
    """The folder with the files of the main work tree; None if there is none."""
    common = Path(repo.commondir()).resolve()
    if common == Path(repo.controldir()).resolve():
        return None if repo.bare else Path(repo.path).resolve()
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
        return not repo.bare


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
    return config
