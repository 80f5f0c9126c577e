import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream import InvalidValue
from datastream.codecs import decode, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False))
def test_a_plain_value_comes_back_with_its_type(value):
    back = decode(*encode(value))
    assert back == value
    assert type(back) is type(value)


@given(json_values.filter(lambda value: value is None or isinstance(value, list | dict)))
def test_json_comes_back(value):
    data, name = encode(value)
    assert name == "json"
    assert decode(data, name) == value


def test_bytes_are_stored_under_any_type():
    assert encode(b"anything", "image/png") == (b"anything", "image/png")
    assert encode(bytearray(b"x"), "int") == (b"x", "int")


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        ("5", "int"),
        (True, "int"),
        (5, "str"),
        (5, "bool"),
        ("x", "float"),
        (math.nan, "json"),
        ({1: object()}, "json"),
        ("text", "image/png"),
        (object(), None),
        ("\ud800", None),
        (5, "application/toml"),
    ],
)
def test_what_does_not_fit_is_refused(value, value_type):
    with pytest.raises(InvalidValue, match="'the key'"):
        encode(value, value_type, key="the key")


@pytest.mark.parametrize(
    ("value", "value_type"),
    [
        (b"", "int"),
        (b"1_000", "int"),
        (b"1_0.5", "float"),
        (b"1e999", "float"),
        (b"maybe", "bool"),
        (b"\xff", "str"),
        (b"{", "json"),
        (b"[" * 100_000, "json"),
        (b"= 1", "application/toml"),
        (b"a: [", "application/yaml"),
    ],
)
def test_bytes_that_are_not_what_they_say_are_refused(value, value_type):
    with pytest.raises(InvalidValue, match="'the key'"):
        decode(value, value_type, key="the key")


@pytest.mark.parametrize(
    ("value", "value_type", "expected"),
    [
        (b'{"a": 1}', "application/json; charset=utf-8", {"a": 1}),
        (b"[1]", "application/problem+json", [1]),
        (b"a = 1", "application/toml", {"a": 1}),
        (b"a: [1, 2]", "application/yaml", {"a": [1, 2]}),
        ("grün".encode(), "text/markdown", "grün"),
        (b"\x89PNG", "image/png", b"\x89PNG"),
        (b"x", "", b"x"),
        (b"TRUE", "bool", True),
        (b"inf", "float", math.inf),
    ],
)
def test_media_types_and_short_names(value, value_type, expected):
    assert decode(value, value_type) == expected


def test_subclasses_are_inferred_like_their_base():
    class Port(int):
        pass

    assert encode(Port(80)) == (b"80", "int")
