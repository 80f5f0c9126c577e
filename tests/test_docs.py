"""Every Python block of the README and the docs runs and prints what it says."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import datastream

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Its blocks are notebook cells, which the notebook tests run.
CELLS = "notebooks.md"


# Runs the blocks of a page one after the other, each as a program in a folder of its own: one
# process for all of them spares the imports.
RUNNER = """
import json, os, sys, types
environment = dict(os.environ)
for number, block in enumerate(json.load(sys.stdin)):
    os.makedirs(folder := os.path.join(sys.argv[1], str(number)))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    print("\x1e", end="", flush=True)
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    exec(compile(block, f"block {number + 1}", "exec"), module.__dict__)
"""


def _blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != CELLS and _blocks(page)],
    ids=lambda page: page.stem,
)
def test_blocks_print_what_they_say(page, tmp_path):
    blocks = _blocks(page)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, tmp_path],
        input=json.dumps(blocks),
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    printed = result.stdout.split("\x1e")[1:]
    assert result.returncode == 0, f"block {len(printed)}: {result.stderr}"
    for number, (block, lines) in enumerate(zip(blocks, printed, strict=True), 1):
        said = re.findall(r"^ *#> (.*)$", block, re.MULTILINE)
        assert lines.splitlines() == said, f"block {number}"


def test_blocks_that_are_not_run_here_are_run_elsewhere():
    """On servers by `test_docs_on_servers.py`; the harness by `test_json_file.py`."""
    pages = {page.stem for page in PAGES if "```python no-run" in page.read_text()}
    assert pages <= {"postgres", "s3", "nats", "consume", "writing-a-source"}


def test_links_within_the_docs_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", _prose(page)):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        name = os.path.relpath(page, ROOT / "docs")
        assert name == "index.md" or f"]({name})" in index, f"{name} is missing in docs/index.md"


def _script(name):
    """A script of the docs as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["build_api", "build_wire"])
def test_a_page_that_is_made_is_current(name):
    made = _script(name)
    assert made.page() == made.PAGE.read_text(), f"run: python docs/{name}.py"


def test_the_tables_of_guarantees_are_current():
    """What they say is compared with what the suite does by `tests/conformance`."""
    made = _script("build_guarantees")
    assert list(made.FEATURES) == [feature.name for feature in datastream.Feature]
    for page, text in made.pages().items():
        assert text == page.read_text(), f"{page.name}: run python docs/build_guarantees.py"


def test_every_source_has_a_page_with_its_guarantees():
    pages = {page.stem for page in PAGES if "<!-- guarantees -->" in page.read_text()}
    assert pages >= {
        *("memory", "sqlite", "postgres", "git", "files", "s3", "filesystems", "env", "documents"),
        *("nats", "grpc", "layers", "sources"),
    }


def test_every_public_name_is_in_the_api_reference():
    text = (ROOT / "docs" / "api.md").read_text()
    for name in datastream.__all__:
        assert re.search(rf"\b{name}\b", text), f"{name} is missing in docs/api.md"
    for name in dir(datastream.Store):
        if not name.startswith("_"):
            assert f"store.{name}" in text, f"Store.{name} is missing in docs/api.md"


# One word per concept: these were given up, or are said otherwise in the field.
GIVEN_UP = (
    *("bell", "workshop", "board", "courier", "lane", "seat", "seated", "settle", "note", "doubt"),
    *("admit", "hub", "mailbox", "poke"),
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_uses_a_word_that_was_given_up(page):
    words = set(re.findall(r"\w+", _prose(page).lower()))
    if page.name == "CHANGELOG.md":
        words -= {"poke", "settle", "note"}  # it says what they are now
    assert words.isdisjoint(GIVEN_UP), words & set(GIVEN_UP)


def _prose(page):
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
