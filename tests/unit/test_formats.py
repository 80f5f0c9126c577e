"""How documents are spelled again after a change."""

import pytest

from datastream._formats import Json, json_text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a": 1}', b'{"a": 2}'),
        (b'{"a": 1}\n', b'{"a": 2}\n'),
        (b'{ \r\n\t"a": 1}\n', b'{\n\t"a": 2\n}\n'),
        (b'\xef\xbb\xbf\n{\n    "a": 1\n}', b'{\n    "a": 2\n}'),
        (b"[\n   1\n]", b'{\n   "a": 2\n}'),
    ],
)
def test_json_is_indented_as_it_was(before, after):
    assert json_text({"a": 2}, before, None) == after


@pytest.mark.parametrize("before", [b"{}\n", b"{\n}\n"])
def test_an_empty_document_is_made_readable(before):
    assert Json().edit(before, lambda it: it.update(a=1)) == b'{\n  "a": 1\n}\n'
