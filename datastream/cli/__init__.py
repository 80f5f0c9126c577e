"""The command line: ``datastream``, also as ``python -m datastream``."""

from datastream.cli._app import main

__all__ = ["main"]
