import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastream import InvalidValue, codecs
from datastream.sources._common.file_types import SNIFFED, check_round_trip, type_of, type_of_name

scalars = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
structures = st.recursive(
    st.none() | scalars | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.json", "application/json"),
        ("conf/app.YAML", "application/yaml"),
        ("app.yml", "application/yaml"),
        ("pyproject.toml", "application/toml"),
        ("t.parquet", "application/vnd.apache.parquet"),
        ("x.csv", "text/csv"),
        ("README.md", "text/markdown"),
        ("a.png", "image/png"),
        ("archive.tar.gz", "application/gzip"),
        ("odd?name#1.json", "application/json"),
        ("data:x,y.txt", "text/plain"),
        ("a.json/b", None),
        (".json", None),
        ("noextension", None),
        ("ends.in.dot.", None),
        ("v1.2", None),
    ],
)
def test_the_extension_tells(name, expected):
    assert type_of_name(name) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "str"),
        (b"20", "int"),
        (b"-7", "int"),
        (b"0", "int"),
        (b"007", "str"),
        (b"20\n", "str"),
        (b"1_000", "str"),
        (b"1.5", "float"),
        (b"1e+22", "float"),
        (b"1.50", "str"),
        (b"inf", "str"),
        (b"nan", "str"),
        (b"1.2.3", "str"),
        (b"true", "bool"),
        (b"True", "str"),
        (b'{"a": 1}\n', "json"),
        (b"[1, 2]", "json"),
        (b"null", "json"),
        (b"{not json", "str"),
        ("prose, ä".encode(), "str"),
        (b"\xff\xfe", "bytes"),
        (b"a\0b", "bytes"),
        (b"[" * 50_000, "str"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_without_extension_the_content_tells(content, expected):
    assert type_of("key", content) == expected


def test_of_large_contents_only_the_start_is_looked_at():
    head = ("ä" * SNIFFED).encode()[:SNIFFED]
    assert type_of("k", head, size=10 * SNIFFED) == "str"
    # A character cut in two at the end of the start is no sign of binary data.
    assert type_of("k", ("a" + "ä" * SNIFFED).encode()) == "str"
    assert type_of("k", b"a" * SNIFFED + b"\xff") == "str"
    assert type_of("k", b"\xff" + b"a" * SNIFFED) == "bytes"
    # It ends there: no character is cut, this one is half.
    assert type_of("k", b"a" * (SNIFFED - 1) + b"\xc3") == "bytes"
    large = b'{"a": "' + b"x" * SNIFFED + b'"}'
    assert type_of("k", large) == "str" == type_of("k", large[:SNIFFED], size=len(large))


@given(scalars | structures)
def test_what_is_accepted_reads_back_the_same(value):
    content, value_type = codecs.encode(value)
    try:
        found = check_round_trip("key", content, value_type)
    except InvalidValue:
        # Only text can look like something else.
        assert isinstance(value, str | float) or value_type == "json"
        return
    back = codecs.decode(content, found)
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize("text", ["20", "1.5", "true", "null", "[1]", '"quoted"'])
def test_text_that_would_read_back_as_something_else_is_refused(text):
    with pytest.raises(InvalidValue, match="extension"):
        check_round_trip("key", text.encode(), "str")
    assert check_round_trip("key.txt", text.encode(), "str") == "text/plain"


def test_bytes_are_always_taken():
    for content in (b"20", b"text", b"\xff", b""):
        check_round_trip("key", content, "bytes")
        check_round_trip("key.json", content, "bytes")
        check_round_trip("key", content, "image/png")


@pytest.mark.parametrize(
    ("printed", "number", "found"),
    [
        (b"12", 12.0, "int"),
        (b"-3", -3.0, "int"),
        (b"1.1", 1.1, "float"),
        (b"1e+06", 1e6, "float"),
        (b"1.234567e+06", 1234567.0, "float"),
        (b"-2.5e-07", -2.5e-7, "float"),
        (b"1e+21", 1e21, "float"),
        (b"0", 0.0, "int"),
    ],
)
def test_a_float_as_go_prints_it_reads_back_as_an_equal_number(printed, number, found):
    assert check_round_trip("rate", printed, "float") == type_of("rate", printed) == found
    assert codecs.decode(printed, found) == number


@pytest.mark.parametrize("text", [b"1e+6", b"1E+06", b"1e+05", b"10e+06", b"1.0e+06", b"e+06"])
def test_what_nobody_prints_is_text(text):
    assert type_of("k", text) == "str"
