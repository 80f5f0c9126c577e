"""The command line on a terminal, seen through a terminal emulator."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.cells import cell_len

import datastream

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.integration.terminals import Terminal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[datastream.Store]:
    with datastream.open(f"sqlite:{tmp_path}/store.db") as store:
        yield store


@pytest.fixture
def terminal(stack: ExitStack, interruptible):
    def make(*arguments: str, **options) -> Terminal:
        made = Terminal(*arguments, **options)
        stack.callback(made.close)
        return made

    return make


def test_a_table_that_is_sorted_changes_in_place_and_ends_with_q(store, terminal):
    store.put_many({"b": 2, "a": 1, "c/d": "three"})
    shown = terminal("watch", store.name)
    lines = shown.shows("3 of 3 keys")
    assert [line.split()[0] for line in lines[1:4]] == ["a", "b", "c/d"]
    assert "READY" in lines[23]
    store["b"] = 22
    assert shown.line("●  b").split()[2:3] == ["int"]
    assert shown.line("●  b").endswith("22")
    del store["a"]
    assert shown.line("✗  a")
    # What is gone is seen for a while, and then not any more.
    lines = shown.shows("2 of 2 keys")
    assert lines[1].split()[0] == "b"
    shown.type("q")
    assert shown.exit_code() == 0
    # The terminal is as it was: another screen is left, the cursor is shown again.
    assert shown.sent.rstrip().endswith((b"\x1b[?1049l", b"\x1b[?25h"))


def test_thousands_of_keys_are_paged_and_a_resized_terminal_is_filled(store, terminal):
    store.put_many({f"key/{number:05}": number for number in range(5_000)})
    shown = terminal("watch", store.name, lines=12)
    assert "key/00000" in shown.shows("1-10 of 5000 keys")[1]
    shown.type("\x1b[6~")
    assert "key/00010" in shown.shows("11-20 of 5000 keys")[1]
    shown.type("G")
    assert "key/04999" in shown.shows("4991-5000 of 5000 keys")[10]
    shown.type("\x1b[A")
    shown.shows("4990-4999 of 5000 keys")
    shown.type("\x1b[H")
    shown.shows("1-10 of 5000 keys")
    shown.resize(7, 40)
    lines = shown.until(lambda lines: lines[6].startswith("1-5 of 5000 keys"))
    assert "key/00004" in lines[5]
    assert max(map(cell_len, lines)) <= 40


def test_wide_and_hostile_text_keeps_its_place_on_the_screen(store, terminal):
    store["漢字/キー"] = "日本語の値" * 30
    store["evil"] = "\x1b[2J\x1b]0;owned\x07\u202e"
    store["emoji 👩‍👩‍👧"] = "é👍"
    shown = terminal("watch", store.name, columns=60)
    lines = shown.shows("3 of 3 keys")
    assert len([line for line in lines[:-1] if line]) == 4
    assert all(cell_len(line) <= 60 for line in lines)
    assert r"\x1b[2J" in shown.line("evil")
    assert b"owned\x07" not in shown.sent


@pytest.mark.parametrize("command", ["watch", "top"])
def test_a_locale_of_ascii_shows_the_same(store, terminal, command):
    store["漢字"] = "日本語"
    shown = terminal(command, store.name, environment={"PYTHONIOENCODING": "ascii"})
    shown.shows("↑ ↓" if command == "top" else "日本語")
    shown.type("q")
    assert shown.exit_code() == 0


@pytest.mark.parametrize("columns", [80, 20])
def test_a_long_key_leaves_room_for_its_value(store, terminal, columns):
    store["svc/" + "long/" * 40 + "key"] = "the value"
    store["short"] = "another one"
    shown = terminal("watch", store.name, lines=6, columns=columns)
    line = shown.line("svc/")
    assert "…" in line
    assert "the va" in line


@pytest.mark.parametrize("columns", [40, 20])
def test_top_shows_keys_on_a_narrow_terminal_too(store, terminal, columns):
    shown = terminal("top", store.name, lines=6, columns=columns)
    shown.shows("0 keys chang")
    store["svc/" + "long/" * 40 + "key"] = 1
    assert "…" in shown.line("svc/")


def test_an_emoji_that_a_terminal_draws_wider_moves_no_line(store, terminal):
    store["key"] = "\N{WOMAN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5}" * 40
    shown = terminal("watch", store.name, lines=6, columns=60)
    lines = shown.shows("1 keys")
    assert "value" in lines[0]
    assert "key" in lines[1]
    shown.type("q")
    assert shown.exit_code() == 0
    assert shown.sent.rindex(b"\x1b[?7h") > shown.sent.rindex(b"\x1b[?7l")


def test_no_color_leaves_the_marks(store, terminal):
    store["a"] = 1
    shown = terminal("watch", store.name, environment={"NO_COLOR": "1"})
    shown.shows("1 of 1 keys")
    store["a"] = 2
    shown.shows("●  a")
    assert b"\x1b[32m" not in shown.sent
    assert b"\x1b[1;32m" not in shown.sent


@pytest.mark.chaos
def test_trouble_is_in_the_status_line(store, terminal, tmp_path):
    store["a"] = 1
    shown = terminal("watch", store.name, columns=120)
    shown.shows("READY")
    store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    shown.line("STALE: ")


def test_ctrl_c_leaves_the_terminal_as_it_was(store, terminal):
    store["a"] = 1
    shown = terminal("watch", store.name)
    shown.shows("1 of 1 keys")
    shown.type("\x03")
    assert shown.exit_code() == 130
    assert b"\x1b[?1049l" in shown.sent


def test_who_ends_the_program_leaves_the_terminal_as_it_was(store, terminal):
    store["a"] = 1
    shown = terminal("watch", store.name)
    shown.shows("1 of 1 keys")
    shown.process.terminate()
    assert shown.exit_code() == -signal.SIGTERM
    assert b"\x1b[?1049l" in shown.sent


def test_a_table_needs_no_keyboard(store, terminal):
    store["a"] = 1
    shown = terminal("watch", store.name, stdin=subprocess.DEVNULL)
    shown.shows("1 of 1 keys")
    shown.type("\x03")
    assert shown.exit_code() == 130


def test_a_terminal_gets_lines_where_they_are_asked_for(store, terminal):
    store["a"] = 1
    shown = terminal("watch", store.name, "--lines", "--count", "1")
    assert shown.exit_code() == 0
    assert shown.line("PUT").split()[3:] == ["a", "=", "1", "int"]
    assert b"\x1b[?1049h" not in shown.sent


@pytest.mark.chaos
def test_top_shows_what_changes_most_first(store, terminal):
    store.put_many({"quiet": 0, "busy": 0, "calm": 0})
    shown = terminal("top", store.name)
    shown.shows("0 keys changed")
    for number in range(5):
        store["busy"] = number + 1
    store["calm"] = 1
    lines = shown.shows("2 keys changed")
    assert [line.split()[-1] for line in lines[1:3]] == ["busy", "calm"]
    shown.type("q")
    assert shown.exit_code() == 0


def test_what_lasts_shows_how_far_it_is(store, terminal):
    shown = terminal("import", store.name)
    shown.type('{"key": "a", "value": 1}\n')
    shown.shows("importing")
    shown.type("\x04")
    assert shown.exit_code() == 0
    assert shown.line("1 entries written")
    assert not any("importing" in line for line in shown.screen.display)


def test_rm_of_many_keys_asks(store, terminal):
    store.put_many({"fx/USD": 1, "fx/GBP": 2})
    shown = terminal("rm", store.name, "fx", "--prefix", columns=200)
    shown.shows("remove 2 keys of ")
    shown.type("n\n")
    assert shown.exit_code() == 1
    assert shown.line("nothing was removed")
    shown = terminal("rm", store.name, "fx", "--prefix", columns=200)
    shown.shows("remove 2 keys of ")
    shown.type("y\n")
    assert shown.exit_code() == 0
    assert store.snapshot() == {}


def test_a_value_does_not_speak_to_the_terminal(store, terminal):
    store["text"] = "one\ttab\n\x1b]0;owned\x07 two\n"
    store["bytes"] = b"\xff\x1b[31m"
    shown = terminal("get", store.name, "text")
    assert shown.exit_code() == 0
    assert shown.line("one").split() == ["one", "tab"]
    assert shown.line("two") == r"\x1b]0;owned\x07 two"
    shown = terminal("get", store.name, "bytes")
    assert shown.exit_code() == 0
    assert shown.line("31m") == r"\xff\x1b[31m"


def test_ls_is_a_table_that_fits(store, terminal):
    store.put_many({"漢字/キー": "日本語の値" * 30, "a" * 70: "x" * 100, "b": 1})
    shown = terminal("ls", store.name, columns=60)
    assert shown.exit_code() == 0
    lines = shown.shows("3 keys")
    assert [line.split()[0] for line in lines[:5]] == ["key", "a" * 29 + "…", "b", "漢字/キー", "3"]
    assert lines[3].endswith("…")
    assert max(map(cell_len, lines)) <= 60
    shown = terminal("ls", store.name, columns=60, environment={"NO_COLOR": "1"})
    assert shown.exit_code() == 0
    assert b"\x1b[" not in shown.sent
