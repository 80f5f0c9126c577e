"""What the command line says of what the library logs."""

from __future__ import annotations

from datastream.cli._exit import exit_code
from datastream.cli._log import LOGGER


def test_a_warning_is_said_once_by_a_command_within_the_program(capsys):
    assert exit_code(lambda: exit_code(lambda: LOGGER.warning("odd"))) == 0
    assert capsys.readouterr().err == "datastream: odd\n"
    assert LOGGER.handlers == []
