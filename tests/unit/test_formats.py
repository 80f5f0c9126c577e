"""How documents are spelled again after a change."""

import pytest

from datastream._formats import Json, Toml, Yaml, json_text, spelled_as
from datastream.errors import InvalidValue


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


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        ("a: [1, 2] # why", [1, [2]], "a: [1, [2]] # why"),
        ("a:\n- 1\n- 2", [3], "a:\n- 3"),
        ("a: 'x' # why", "y", "a: 'y' # why"),
        ('a: "x"', "it's", 'a: "it\'s"'),
        ("a: |\n  x\n  y", "z\n  z\n", "a: |\n  z\n    z"),
        ("a: 'x'", 5, "a: 5"),
        ("a: x", "y", "a: y"),
        ("a: [1]", "y", "a: y"),
    ],
)
def test_yaml_spells_a_value_as_the_one_before(before, value, after):
    def change(document):
        document["a"] = spelled_as(document["a"], value)

    made = Yaml().edit(f"{before}\nb: 1\n".encode(), change)
    assert made == f"{after}\nb: 1\n".encode()
    assert Yaml().read(made) == {"a": value, "b": 1}


@pytest.mark.parametrize("value", [None, [1, None]])
def test_toml_says_that_it_has_no_null(value):
    with pytest.raises(InvalidValue, match="TOML cannot hold this value: it has no null"):
        Toml().edit(b"", lambda document: document.update(a=value))
