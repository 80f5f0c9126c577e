"""A repository whose configuration git understands, and dulwich too."""

from __future__ import annotations

import re

from dulwich.config import ConfigFile
from dulwich.repo import Repo

_WITH_UNIT = re.compile(rb"\s*([+-]?\d+)([kmg])\s*", re.IGNORECASE)
_UNITS = {b"k": 1 << 10, b"m": 1 << 20, b"g": 1 << 30}
_BIG_FILES = (b"core",), b"bigFileThreshold"
"""From what size on git compresses a file in another way; dulwich refuses such a file."""
_UNLIMITED = b"%d" % (1 << 62)


class TolerantRepo(Repo):
    """A `Repo` that reads numbers with units, such as ``50m``."""

    def get_config(self) -> ConfigFile:
        config = super().get_config()
        for section in list(config.sections()):
            for name, value in list(config.items(section)):
                found = _WITH_UNIT.fullmatch(value)
                if found is not None:
                    number = int(found[1]) * _UNITS[found[2].lower()]
                    config.set(section, name, b"%d" % number)
        if config.has_section(_BIG_FILES[0]):
            config.set(*_BIG_FILES, _UNLIMITED)
        return config
