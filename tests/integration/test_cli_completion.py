"""Completion in real shells: what is offered is one word, whatever is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import datastream

KEYS = (
    "c,d",
    "sp ace",
    "co:lon",
    "dol$lar",
    "qu'ote",
    "back\\slash",
    "ünï/é",
    "new\nline",
    "ta\tb",
)
OFFERED = ["back\\slash", "c,d", "co:lon", "dol$lar", "qu'ote", "sp ace", "ünï/"]
BINARIES = Path(sys.executable).parent
BASH = """
eval "$(datastream completion bash)"
COMP_WORDS=(datastream "$@") COMP_CWORD=$#
_datastream_completion datastream
# As the shell reads what is put on its line.
for word in "${COMPREPLY[@]}"; do eval "printf '%s\\n' $word"; done
"""
FISH = """
datastream completion fish | source
complete -C "datastream $argv"
"""
ZSH = """
autoload -U compinit && compinit -u -d "$ZDOTDIR/dump"
eval "$(datastream completion zsh)"
# In the place of the editor, which only runs on a terminal.
compadd() { print -rl -- $completions }
words=(datastream "$@") CURRENT=$(($# + 1))
_datastream_completion
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    with datastream.open(f"sqlite:{tmp_path}/s.db", create=True) as store:
        store.put_many(dict.fromkeys(KEYS, 1))
    return f"sqlite:{tmp_path}/s.db"


@pytest.fixture
def offered(tmp_path: Path):
    if not (BINARIES / "datastream").exists():
        pytest.skip("needs the program `datastream` beside Python: pip install -e .")

    def ask(shell: str, script: str, *words: str) -> list[str]:
        program = shutil.which(shell)
        if program is None:
            pytest.skip(f"needs the shell {shell}, as of apt-get install {shell}")
        quiet = {"bash": ["--norc"], "fish": ["--no-config"], "zsh": ["-f"]}[shell]
        file = tmp_path / f"script.{shell}"
        file.write_text(script)
        environment = {
            **os.environ,
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(tmp_path),
            "ZDOTDIR": str(tmp_path),
        }
        command = [program, *quiet, str(file), *words]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            cwd=tmp_path,
        )
        assert done.stderr == ""
        return sorted(filter(None, done.stdout.splitlines()))

    return ask


@pytest.mark.parametrize(("typed", "expected"), [("", OFFERED), ("sp\\ a", ["sp ace"])])
def test_bash_puts_a_key_on_the_line_as_one_word(offered, url, typed, expected):
    assert offered("bash", BASH, "get", url, typed) == expected


def test_bash_leaves_a_word_alone_that_was_begun_with_a_quote(offered, url):
    shown = BASH.replace("eval \"printf '%s\\n' $word\"", 'echo "$word"')
    assert offered("bash", shown, "get", url, "'sp") == ["sp ace"]


def test_fish_offers_whole_keys(offered, url):
    assert offered("fish", FISH, f"get {url} ") == OFFERED
    assert offered("fish", FISH, f"get {url} c,") == ["c,d"]


def test_zsh_offers_whole_keys(offered, url):
    assert offered("zsh", ZSH, "get", url, "") == OFFERED
    assert offered("zsh", ZSH, "get", url, "c") == ["c,d", "co:lon"]
