"""What users may import, and what importing costs them."""

import os
import subprocess
import sys

import pytest

import datastream
from datastream.errors import DatastreamError

HEAVY = (
    *("grpc", "dulwich", "psycopg", "fsspec", "s3fs", "watchfiles", "nats", "pydantic"),
    *("tomlkit", "ruamel", "httpx", "click", "rich", "sqlite_utils", "pytest"),
)


def test_all_is_sorted_short_and_true():
    assert datastream.__all__ == sorted(datastream.__all__)
    assert len(datastream.__all__) <= 48
    assert all(hasattr(datastream, name) for name in datastream.__all__)


def test_every_error_is_public_and_drawn():
    errors = _descendants(DatastreamError)
    for error in errors:
        if error.__module__ == "datastream.errors":
            assert getattr(datastream, error.__name__) is error
            assert error.__name__ in datastream.errors.__doc__


def test_every_error_has_a_grpc_status():
    from datastream_grpc._status import CODES

    ours = {e for e in _descendants(DatastreamError) if e.__module__ == "datastream.errors"}
    assert ours | {DatastreamError} == set(CODES)


def test_import_loads_no_client_library():
    program = f"import sys, datastream; print([m for m in {HEAVY} if m in sys.modules])"
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert output.strip() == "[]"


def test_a_missing_extra_says_what_to_install_once():
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "import datastream\n"
        "try: datastream.open('grpc://127.0.0.1:1')\n"
        "except ImportError as error: print(error)\n"
        "try: import datastream_grpc\n"
        "except ImportError as error: print(error)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    lines = output.splitlines()
    assert [line.count('pip install "datastream-kv[grpc]"') for line in lines] == [1, 1]


def test_only_the_suite_needs_pytest():
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from datastream.testing import Harness, overriding\n"
        "try: from datastream.testing import Conformance\n"
        "except ImportError as error: print(error)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert "pip install pytest" in output


def test_another_package_adds_a_scheme(tmp_path):
    package = tmp_path / "other-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[datastream.sources]\nother = other:open_other\n")
    (tmp_path / "other.py").write_text(
        "from datastream.sources.memory import MemorySource\n"
        "def open_other(location, **options):\n"
        "    assert location.path == '//here'\n"
        "    assert (location.options, options) == ({'a': '1'}, {'b': 2})\n"
        "    return MemorySource()\n"
    )
    program = "import datastream; print(datastream.open('other://here?a=1', b=2))"
    output = subprocess.check_output(
        [sys.executable, "-c", program], text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert output.strip() == "<Store other://here?a=1 CONNECTING>"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("settings.db", "scheme:place"),
        ("nosuch:thing", "known are"),
        ("memory:?colour=red", "no option 'colour'"),
        ("sqlite:", "names no file"),
        ("sqlite:x.db?timeout=soon", "wants a number"),
        ("sqlite:x.db?table=a&table=b", "twice"),
        ("grpc://host:1/path", "names no server"),
    ],
)
def test_a_bad_url_is_explained(url, words):
    with pytest.raises(DatastreamError, match=words):
        datastream.open(url)


def test_secrets_in_urls_are_never_shown():
    for url in ("nosuch://me:hunter2@host/db?table=x", "nosuch:db?password=hunter2&token=hunter2"):
        with pytest.raises(DatastreamError) as caught:
            datastream.open(url)
        assert "hunter2" not in str(caught.value)


def _descendants(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def test_the_past_is_refused_early_where_there_is_none():
    with datastream.open("memory:") as store:
        with pytest.raises(datastream.Unsupported, match="memory: cannot go back"):
            store.history("a")
        with pytest.raises(datastream.Unsupported, match="keeps no past"):
            store.at("v1.0")
    with pytest.raises(datastream.StoreClosed):
        store.history("a")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3/cretpw@127.0.0.1:1/x",
        "git+https://u:s3/cretpw@127.0.0.1:1/x",
        "git+ssh://u:cretpw@[::1/x",
        "s3://AK:cretpw@bucket/x",
        "grpc://u:cretpw@127.0.0.1:1",
        "u:cretpw@127.0.0.1:1/x",
        "git+https://u@127.0.0.1:1/x?pasword=cretpw",
        "memory://x?raedonly=true&create=true&token=cretpw",
    ],
)
def test_urls_that_are_slightly_wrong_show_no_secret_either(url):
    with pytest.raises(DatastreamError) as caught:
        datastream.open(url)
    assert "cretpw" not in str(caught.value)
