"""Source and harness of `docs/writing-a-source.md` keep the promises, as they stand there."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-source.md"
SOURCE, HARNESS = re.findall(r"```python[^\n]*\n(.*?)```", PAGE.read_text(), re.DOTALL)[:2]
# What follows the class is the demonstration, which tests/test_docs.py runs.
CLASS = SOURCE.partition('\n\n\nPath("rates.json")')[0]

exec(compile(CLASS + "\n\n" + HARNESS, PAGE, "exec"))


def test_the_example_is_short():
    body = CLASS.partition("class JsonFile")[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 50
