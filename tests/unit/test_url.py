"""URLs and options of stores: what is taken, what is refused, and what is said then."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest

import datastream
from datastream import DatastreamError
from datastream.url import (
    CodeOnly,
    Count,
    Limits,
    Location,
    Program,
    Seconds,
    check_port,
    configured,
    parse,
)


def factory(
    *,
    flag: bool = False,
    maybe: bool | None = None,
    count: Count = 1,
    interval: Seconds = 1.0,
    ratio: Annotated[float, Limits(0, 1)] | None = None,
    name: str = "",
    folder: str | Path = "",
    several: "str | list[str]" = "",
    program: Program = "",
    holder: Mapping[str, Any] | None = None,
    callback: Callable[[str], None] | None = None,
    anything: "OnlyForTypeCheckers" = None,  # type: ignore[name-defined]  # noqa: F821
) -> dict[str, Any]:
    return {name: value for name, value in locals().items() if value is not None}


def taken(name: str, value: Any, *, in_url: bool) -> Any:
    """What a factory gets for an option; a URL has text only."""
    place = Location("test", "x", {name: value} if in_url else {}, "test:x")
    return configured(factory, place, {} if in_url else {name: value})[name]


GOOD = [
    ("flag", "true", True),
    ("flag", "False", False),
    ("flag", "1", True),
    ("maybe", "no", False),
    ("count", "7", 7),
    ("interval", "0.5", 0.5),
    ("interval", "2", 2.0),
    ("interval", "1e3", 1000.0),
    ("ratio", "1", 1.0),
    ("name", "nan", "nan"),
    ("folder", "~/x", str(Path("~/x").expanduser())),
    ("several", "a,b", "a,b"),
    ("anything", "text", "text"),
]
BAD = [
    *((name, text) for name in ("flag", "maybe") for text in ("banana", "", "2", " true")),
    *(("count", text) for text in ("0", "-1", "1.5", "1_0", "٣", " 1", "", "9" * 5000, "0x1")),
    *(
        ("interval", text)
        for text in ("nan", "inf", "-inf", "0", "-1", "1e308", "1e999", "", "soon", "1_0", "1..2")
    ),
    ("ratio", "1.1"),
    ("name", "a\0b"),
    ("folder", "~no-such-user/x"),
]


@pytest.mark.parametrize("in_url", [True, False])
@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_text_gets_the_type_of_the_annotation(name, text, value, in_url):
    found = taken(name, text, in_url=in_url)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("in_url", [True, False])
@pytest.mark.parametrize(("name", "text"), BAD)
def test_text_of_another_type_is_refused(name, text, in_url):
    with pytest.raises(DatastreamError, match=r"wants|no home") as caught:
        taken(name, text, in_url=in_url)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("flag", value) for value in (None, 2, 0.5, [], b"true")),
        *(("count", value) for value in (True, 0, -1, 1.0, 1 << 40, None, math.nan)),
        *(
            ("interval", value)
            for value in (math.nan, math.inf, 0, -1.0, 1e308, 10**400, True, None, "x", [1])
        ),
        *(("name", value) for value in (5, None, b"x", ["a"])),
        ("folder", 5),
        ("several", [1]),
        ("several", {"a": 1}),
        *(("holder", value) for value in ("x", 5, ["a"])),
        ("callback", "x"),
    ],
)
def test_values_given_in_code_are_of_the_annotated_type(name, value):
    with pytest.raises(DatastreamError, match=f"option {name} of 'test:x' wants "):
        taken(name, value, in_url=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flag", True),
        ("flag", 1),
        ("count", 3),
        ("interval", 3),
        ("folder", Path("x")),
        ("several", ["a", "b"]),
        ("program", "ssh -v"),
        ("holder", {"a": 1}),
        ("callback", print),
        ("anything", 3),
    ],
)
def test_values_of_the_annotated_type_are_taken(name, value):
    assert taken(name, value, in_url=False) == value


@pytest.mark.parametrize("name", ["program", "holder", "callback"])
def test_what_runs_or_is_an_object_is_not_taken_from_a_url(name):
    with pytest.raises(DatastreamError, match=f"{name} is not taken from a URL.* in code"):
        taken(name, "x", in_url=True)


def test_the_reason_is_said():
    hint = Annotated[str, CodeOnly("it deletes files")]

    def other(*, cleaner: hint = "") -> None: ...  # type: ignore[valid-type]

    with pytest.raises(DatastreamError, match="because it deletes files"):
        configured(other, Location("x", "", {"cleaner": "y"}, "x:"), {})


@pytest.mark.parametrize("in_url", [True, False])
def test_an_unknown_option_is_refused_and_the_nearest_is_offered(in_url):
    with pytest.raises(DatastreamError, match=r"no option 'intervall'; did you mean interval\?"):
        taken("intervall", "1", in_url=in_url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("settings.db", "scheme:place, such as sqlite:settings.db"),
        ("conf/app", "such as file:conf/app"),
        ("", "scheme:place"),
        (":x", "scheme:place"),
        ("sqlite:a.db#t", r"'#'; options follow a '\?'"),
        ("sqlite:a.db?table=t#x", "'#'"),
        ("sqlite:a.db?table=%FF", "no UTF-8"),
        ("sqlite:a\n.db", "do not print"),
        ("sqlite:a.db?table=a&table=b", "twice"),
        ("sqlite:///:memory:", "write sqlite:settings.db, or memory:"),
        ("sqlite://:memory:", "or memory:"),
        ("sqlite:file:a.db", "names no file"),
        ("sqlite://a.db", "names no file"),
        ("sqlite:~no-such-user/a.db", "no home directory"),
        ("sqlit:x", "did you mean sqlite?"),
        ("sqlite3:x", "did you mean sqlite?"),
        ("postgresql+psycopg2://u@h/d", "did you mean postgresql?"),
        ("gprc://h:1", "did you mean grpc?"),
        ("localhost:abc", "grpc://host:port"),
        ("example.org:8080", "grpc://host:port"),
        ("nosuch:8080", "grpc://host:port"),
        ("C:\\conf", "file:c:"),
        ("grpc://localhost:abc", "port is a number"),
        ("grpc://localhost:0", "port is a number"),
        ("git+https://host:99999/x", "no port '99999'"),
        ("https://host/x.git", "write git[+]https://host/x.git"),
        ("git+ssh://host/x?ssh_command=evil", "runs a program"),
        ("s3://bucket?client_kwargs=x", "not taken from a URL"),
        ("grpc://host:1?credentials=x", "not taken from a URL"),
        ("env:APP_?environ=x", "not taken from a URL"),
        ("zip:a.zip?target_options=x", "not taken from a URL"),
        ("zip:a.zip?compresion=5", "did you mean compression?"),
        ("zip:a.zip?allowZip64=maybe", "wants true or false"),
        ("postgresql://host:abc/d", "port is a number"),
        ("postgresql://host/d?port=0", "port is a number"),
        ("postgresql://host/d?connect_timeout=nan", "connect_timeout wants a whole number"),
        ("postgresql://host/d?libpq=x", "not taken from a URL"),
        ("postgresql://host/d?sslmod=x", "did you mean sslmode?"),
        ("postgresql://host/d?tabel=x", "did you mean table?"),
    ],
)
def test_a_url_that_cannot_be_opened_says_what_to_write(url, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatastreamError, match=words):
        datastream.open(url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", [None, b"sqlite:a.db", Path("a.db"), 5])
def test_a_url_is_text(url):
    with pytest.raises(DatastreamError, match="is text"):
        datastream.open(url)


def test_unknown_schemes_get_a_short_list():
    with pytest.raises(DatastreamError) as caught:
        datastream.open("nosuch://place")
    assert len(str(caught.value)) < 250


def test_create_is_no_text(tmp_path):
    for number, value in enumerate(("true", "TRUE", "1")):
        datastream.open(f"sqlite:{tmp_path}/{number}.db?table=t&create={value}").close()
    datastream.open(f"sqlite:{tmp_path}/code.db", table="t", create="true").close()
    for value in ("false", "banana"):
        with pytest.raises(DatastreamError):
            datastream.open(f"sqlite:{tmp_path}/none.db?create={value}")
        with pytest.raises(DatastreamError):
            datastream.open(f"sqlite:{tmp_path}/none.db", create=value)
    assert not (tmp_path / "none.db").exists()


def test_home_directories_and_odd_characters_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    datastream.open("sqlite:~/a%23b%3Fc%20d.db").close()
    assert [path.name for path in tmp_path.glob("*.db")] == ["a#b?c%20d.db"]
    datastream.open("file:~/conf?create=true").close()
    assert (tmp_path / "conf").is_dir()


@pytest.mark.parametrize("place", ["//h", "//h:1", "//u:p@h:65535/x", "//[::1]:80", "//a:1,b:2/d"])
def test_ports_that_are_numbers(place):
    check_port(parse(f"grpc:{place}"))


@pytest.mark.parametrize(
    "place", ["//h:", "//h:0", "//h:65536", "//h:x", "//h:-1", "//[::1]:x", "//a:1,b:x/d", "//h:٣"]
)
def test_ports_that_are_none(place):
    with pytest.raises(DatastreamError, match="from 1 to 65535"):
        check_port(parse(f"grpc:{place}"))
