"""Every Python block of the README and the docs runs and prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Its blocks are notebook cells, which the notebook tests run.
CELLS = "notebooks.md"


def _blocks():
    for page in PAGES:
        if page.name != CELLS:
            blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
            for number, block in enumerate(blocks, 1):
                yield pytest.param(block, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("block", list(_blocks()))
def test_block(block, tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == re.findall(r"^ *#> (.*)$", block, re.MULTILINE)


def test_links_within_the_docs_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
