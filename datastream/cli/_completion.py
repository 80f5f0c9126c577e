"""``completion``: what has a shell complete commands, options, URLs and keys."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from datastream.cli._output import emit

PROGRAM = "datastream"
BASH_WORDS = """\
# A URL is one word.
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
"""
WORDS = {
    "bash": (
        ("read type value", "read -r type value"),
        (
            "COMPREPLY+=($value)",
            '[[ ${COMP_WORDS[COMP_CWORD]} == [\\\'\\"]* ]] || printf -v value %q "$value"\n'
            '            COMPREPLY+=("$value")',
        ),
    ),
    "fish": (('string split ","', 'string split --max 1 ","'),),
}
"""What click's scripts have for words without spaces and commas, and what stands there for all."""
SHELLS = {
    "bash": 'eval "$(datastream completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(datastream completion zsh)" in ~/.zshrc',
    "fish": "datastream completion fish > ~/.config/fish/completions/datastream.fish",
}


@click.command(epilog="  ".join(f"{shell}: {line}." for shell, line in SHELLS.items()))
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what has SHELL complete commands, options, URLs and keys."""
    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"click knows no completion for {shell}; update it")
    script = complete(ctx.find_root().command, {}, PROGRAM, "_DATASTREAM_COMPLETE").source()
    for simple, whole in WORDS.get(shell, ()):
        script = script.replace(simple, whole)
    emit(f"{BASH_WORDS}{script}" if shell == "bash" else script)
