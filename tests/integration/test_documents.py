"""Documents whose leaves are keys: what a write leaves as it was, and what is no delete."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dulwich.repo import Repo

import datastream
from datastream import (
    DatastreamError,
    Feature,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    Operation,
    RevisionConflict,
    SourceUnavailable,
    State,
)
from datastream.testing import TIMEOUT, Recorder
from datastream.testing._tools import eventually, together
from tests.integration._programs.tools import Statuses

TOML = """\
# The settings of the app.
title = "live"   # shown to users

[db]
url = 'postgres://db'  # not the one for tests
pool = 5
ports = [
  1,  # first
  2,
]
since = 2024-05-01

[[servers]]
name = "a"
"""
YAML = """\
# The settings of the app.
title: live   # shown to users
db:
    url: 'postgres://db'  # not the one for tests
    pool: 5
    ports:
    - 1  # first
    - 2
8080: {open: true}
empty:
"""
JSON = """\
{
    "title": "live",
    "db": {
        "url": "postgres://db",
        "pool": 5,
        "ratio": 1.0
    }
}
"""


@pytest.fixture
def file(tmp_path):
    def make(name, text):
        path = tmp_path / name
        path.write_text(text)
        store = datastream.open(f"file://{path}")
        opened.append(store)
        return path, store

    opened = []
    yield make
    for store in opened:
        store.close()


def test_leaves_are_keys(file):
    _, toml = file("s.toml", TOML)
    assert dict(toml) == {
        "title": "live",
        "db/url": "postgres://db",
        "db/pool": 5,
        "db/ports": [1, 2],
        "db/since": "2024-05-01",
        "servers": [{"name": "a"}],
    }
    _, yaml = file("s.yaml", YAML)
    assert dict(yaml) == {
        "title": "live",
        "db/url": "postgres://db",
        "db/pool": 5,
        "db/ports": [1, 2],
        "8080/open": True,
        "empty": None,
    }
    _, json = file("s.json", JSON)
    assert json["db/ratio"] == 1.0
    assert {c.key: c.value_type for c in json.capabilities()}["db/ratio"] == "float"


@pytest.mark.parametrize(("name", "text"), [("s.toml", TOML), ("s.yml", YAML), ("s.json", JSON)])
def test_a_write_changes_its_leaf_and_nothing_else(file, name, text):
    path, store = file(name, text)
    store["db/pool"] = 9
    assert path.read_text() == text.replace("5\n", "9\n").replace("5,\n", "9,\n")
    store["db/pool"] = 5
    assert path.read_text() == text
    del store["db/pool"]
    assert "pool" not in path.read_text()
    assert path.read_text().count("#") == text.count("#")
    store.put_many({"new/table/leaf": [1, "two"], "db/pool": 5})
    assert store["new/table/leaf"] == [1, "two"]
    store.delete("new/table/leaf")
    assert "table" not in path.read_text(), "an empty table is removed"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("---\na: 1\n", "---\na: 2\nb: 1\n"),
        ("# ours\n\n--- # theirs\n# of a\na: 1\n", "# ours\n\n--- # theirs\n# of a\na: 2\nb: 1\n"),
        ("---\na: 1\n...\n", "---\na: 2\nb: 1\n...\n"),
        ("a: 1\n... # end\n# after\n", "a: 2\nb: 1\n... # end\n# after\n"),
        ("# nothing yet\n", "# nothing yet\na: 2\nb: 1\n"),
        ("---\n# nothing yet", "---\n# nothing yet\na: 2\nb: 1\n"),
        ("---\n...\n", "---\na: 2\nb: 1\n...\n"),
        ("--- {a: 1}\n", "{a: 2, b: 1}\n"),
        ("---\r\na: 1\r\n", "---\r\na: 2\r\nb: 1\r\n"),
    ],
)
def test_how_yaml_marks_its_begin_and_end_stays(file, before, after):
    path, store = file("s.yaml", "a: 0\n")
    path.write_bytes(before.encode())
    store.refresh()
    store.put_many({"a": 2, "b": 1})
    assert path.read_bytes().decode() == after
    assert dict(store) == {"a": 2, "b": 1}


def test_toml_with_the_mark_that_editors_of_windows_write(file):
    path, store = file("s.toml", "\ufeffa = 1 # one\n")
    assert dict(store) == {"a": 1}
    store["a"] = 2
    assert path.read_text() == "a = 2 # one\n"


def test_what_is_written_is_what_is_read(file):
    for name in ("s.toml", "s.yaml", "s.json"):
        _, store = file(name, "{}" if name.endswith("json") else "")
        values = {
            "int": 2**40,
            "float": 1.0,
            "small": 1e-300,
            "bool": False,
            "str": "12",
            "odd": "é\n\t# 'quoted' \"twice\" \\ : -",
            "empty": "",
            "list": [1, [True, "x"], {"y": "z"}],
            "bytes": b"\0\xff",
            "a key/with.dots": "x",
            "yes": "no",
        }
        store.put_many(values)
        assert dict(store) == values, name
        with datastream.open(store.name) as again:
            assert dict(again) == values, name


def test_a_change_of_one_leaf_is_news_of_that_one(file):
    path, store = file("s.toml", TOML)
    recorder = Recorder(store)
    recorder.wait_ready()
    path.write_text(TOML.replace("pool = 5", "pool = 6").replace("# first", "# the first"))
    recorder.wait(lambda r: r.state["db/pool"] == b"6")
    assert [e.key for e in recorder.live] == ["db/pool"]


@pytest.mark.parametrize(
    ("name", "text", "half"),
    [
        ("s.toml", TOML, TOML[:40]),
        ("s.yaml", YAML, YAML[:75]),
        ("s.json", JSON, JSON[:40]),
        ("s.json", JSON, ""),
        ("s.json", JSON, "[1]"),
        ("s.yaml", YAML, "title: a\ntitle: b\n"),
        ("s.toml", TOML, b"\xff\xfe"),
    ],
)
def test_a_half_saved_document_is_trouble_and_no_delete(file, name, text, half):
    path, store = file(name, text)
    recorder = Recorder(store)
    recorder.wait_ready()
    before = recorder.state
    path.write_bytes(half if isinstance(half, bytes) else half.encode())
    eventually(lambda: store.status.current.state is State.STALE, "the document is in trouble")
    assert name in str(store.status.current.error)
    assert "postgres" not in str(store.status.current.error), "it may be a password"
    assert dict(store)["title"] == store["title"] == "live"
    assert Recorder(store).state == before
    with pytest.raises(SourceUnavailable, match="mend it"):
        store["title"] = "x"
    with datastream.open(store.name) as late, pytest.raises(SourceUnavailable, match=name):
        late.snapshot()
    path.write_text(text.replace("live", "again"))
    recorder.wait_state({**before, "title": b"again"})
    eventually(lambda: store.status.current.state is State.READY, "the trouble is over")
    assert [(e.key, e.operation) for e in recorder.live] == [("title", Operation.PUT)]


def test_an_emptied_document_is_believed_after_a_second_look(file):
    path, store = file("s.toml", TOML)
    recorder = Recorder(store)
    recorder.wait_ready()
    path.write_text("")
    eventually(lambda: store.status.current.state is State.STALE, "all is gone at once")
    assert recorder.live == []
    recorder.wait_state({})


def test_a_removed_document_is_away(file):
    path, store = file("s.toml", TOML)
    recorder = Recorder(store)
    recorder.wait_ready()
    path.unlink()
    eventually(lambda: store.status.current.state is State.STALE, "the document is away")
    assert "create=True" in str(store.status.current.error)
    path.write_text(TOML.replace("live", "again"))
    recorder.wait(lambda r: r.state["title"] == b"again")
    assert [e.key for e in recorder.live] == ["title"]


def test_a_missing_document(tmp_path):
    with datastream.open(f"file:{tmp_path}/s.yaml") as store:
        with pytest.raises(SourceUnavailable, match="create=True"):
            store.snapshot()
        with pytest.raises(SourceUnavailable):
            store["a"] = 1
    with datastream.open(f"file:{tmp_path}/s.yaml?create=true") as store:
        assert dict(store) == {}
        recorder = Recorder(store)
        store["a/b"] = 1
        recorder.wait_state({"a/b": b"1"})
    assert (tmp_path / "s.yaml").read_text() == "a:\n  b: 1\n"
    with pytest.raises(DatastreamError, match="no such directory"):
        datastream.open(f"file:{tmp_path}/nowhere/s.yaml")


def test_a_link_that_leads_elsewhere_is_no_missing_document(tmp_path):
    """Dotfiles are kept so; with create=True it would pass for an empty one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "dotfiles").mkdir()
    target = tmp_path / "dotfiles/s.yaml"
    target.write_text("a: 1\n")
    (tmp_path / "home/s.yaml").symlink_to("../dotfiles/s.yaml")
    (tmp_path / "home/t.yaml").symlink_to("t.yaml")
    for options in ("", "?create=true"):
        with pytest.raises(DatastreamError, match=f"leads out of .*{target}"):
            datastream.open(f"file:{tmp_path}/home/s.yaml{options}")
    with datastream.open(f"file:{tmp_path}/home/t.yaml") as store:
        with pytest.raises(SourceUnavailable):
            store.snapshot()
    with datastream.open(f"file:{target}") as store:
        assert dict(store) == {"a": 1}


def test_a_directory_with_the_name_of_a_document_is_a_directory(tmp_path):
    (tmp_path / "conf.json").mkdir()
    (tmp_path / "conf.json" / "a").write_text("1")
    with datastream.open(f"file:{tmp_path}/conf.json") as store:
        assert dict(store) == {"a": 1}


def test_what_a_document_cannot_hold(file):
    path, store = file("s.toml", TOML)
    with pytest.raises(InvalidValue, match="by their own keys"):
        store["db"] = {"url": "x"}
    with pytest.raises(InvalidKey, match="below"):
        store["db"] = 1
    with pytest.raises(InvalidKey, match="below"):
        store["title/more"] = 1
    with pytest.raises(InvalidValue):
        store["nothing"] = None
    with pytest.raises(InvalidValue, match="bytes"):
        store["text"] = "!!binary AAAA"
    with pytest.raises(InvalidValue):
        store.put("k", b"no number", value_type="int")
    assert path.read_text() == TOML
    _, json = file("s.json", JSON)
    with pytest.raises(InvalidValue):
        json["nan"] = float("nan")
    json["nothing"] = None
    assert json["nothing"] is None


def test_deleting_and_putting_in_one_write(file):
    _, store = file("s.toml", "a = 1\n[b]\nc = 2\n")
    store.write(
        datastream.Write("b/c", None),
        datastream.Write("b", b"3", "int"),
        datastream.Write("a", None),
        datastream.Write("a/x", b"4", "int"),
    )
    assert dict(store) == {"b": 3, "a/x": 4}
    with pytest.raises(KeyNotFound):
        store.delete("gone")
    with pytest.raises(RevisionConflict):
        store.put_many({"b": 5, "new": 1}, expect={"b": "other"})
    assert "new" not in store


def test_keys_that_are_no_keys_are_left_out(file, caplog):
    path, store = file("s.json", '{"": 1, "a/b": 2, "a": {"b": 3}, "ok": 4, "x/": 5}')
    assert dict(store) == {"a/b": 2, "ok": 4}
    assert "twice" in caplog.text
    caplog.clear()
    assert dict(store) == {"a/b": 2, "ok": 4}
    assert caplog.text == "", "said once"
    store["a/b"] = 9
    assert store["a/b"] == 9
    recorder, statuses = Recorder(store), Statuses(store)
    statuses.wait_degraded("left out: ")
    path.write_text('{"ok": 5}')
    recorder.wait_state({"ok": b"5"})
    statuses.wait_degraded("")


def test_writers_of_different_leaves_lose_nothing(file):
    path, store = file("s.toml", "# nothing yet\n")
    with datastream.open(store.name) as other:
        together(
            *(
                lambda s=s, n=n: [s.put(f"k{n}/{i}", i) for i in range(10)]
                for n, s in enumerate((store, other, store, other))
            )
        )
        assert len(store) == len(other) == 40
    assert path.read_text().startswith("# nothing yet\n")


def test_only_the_directory_of_a_document_is_watched(file, monkeypatch):
    from datastream.sources._common import wake

    asked, has_begun = [], threading.Event()
    original = wake.FileNotifications.__init__

    def spied(self, paths, *, recursive=True, **options):
        asked.append(recursive)
        original(self, paths, recursive=recursive, **options)
        has_begun.set()

    monkeypatch.setattr(wake.FileNotifications, "__init__", spied)
    path, store = file("s.toml", TOML)
    recorder = Recorder(store)
    recorder.wait_ready()
    assert has_begun.wait(TIMEOUT)
    path.write_text(TOML.replace("live", "new"))
    recorder.wait(lambda r: r.state["title"] == b"new")
    assert set(asked) == {False}


# In another store.


def test_a_document_in_a_store(tmp_path):
    with datastream.open(f"sqlite:{tmp_path}/s.db") as store:
        with store.document("app.yaml", create=True) as app:
            recorder = Recorder(app)
            app["db/url"] = "x"
            assert store.entry("app.yaml").value == b"db:\n  url: x\n"
            store.put("app.yaml", "db: {url: y, pool: 1}", value_type="application/yaml")
            recorder.wait_state({"db/url": b"y", "db/pool": b"1"})
            store.put("app.yaml", "db: {url: ", value_type="application/yaml")
            eventually(lambda: app.status.current.state is State.STALE, "it is half saved")
            assert app["db/url"] == "y"
        assert store.status.current.state is State.READY
        with pytest.raises(DatastreamError, match="must end in"):
            store.document("app.ini")


def test_a_document_in_git_has_its_history(tmp_path):
    Repo.init(tmp_path / "r", mkdir=True).close()
    with datastream.open(f"git:{tmp_path}/r") as git, git.document("app.toml", create=True) as app:
        assert Feature.HISTORY in app.features
        recorder = Recorder(app)
        app.put("pool", 1, message="one", author="Ann <ann@example.org>")
        app.put("other", 1, message="of the other")
        app.put("pool", 2, message="two", author="Bob <bob@example.org>")
        git.put("app.toml", "other = 1\n", message="gone")
        recorder.wait_state({"other": b"1"})
        history = [(r.entry.value, r.message.strip()) for r in app.history("pool")]
        assert history == [(b"", "gone"), (b"2", "two"), (b"1", "one")]
        assert [r.message.strip() for r in app.history("other")] == ["of the other"]
        assert list(app.history("never")) == []
        assert next(app.history("pool")).entry.operation is Operation.DELETE
        wrote = [b for b in recorder.batches if b.author.startswith("Bob")]
        assert [(e.key, e.value) for b in wrote for e in b] == [("pool", b"2")]
        assert recorder.batches[-1].message.strip() == "gone"


def test_a_change_back_is_seen_by_those_who_saw_what_lay_between(tmp_path):
    """A document that changes and changes back, while others come and read it."""
    path = tmp_path / "s.json"
    path.write_text('{"k": "a"}')
    with datastream.open(f"file:{path}") as store, datastream.open(f"file:{path}") as writer:
        stop = threading.Event()

        def flip():
            while not stop.is_set():
                writer["k"] = "b"
                writer["k"] = "a"

        thread = threading.Thread(target=flip)
        thread.start()
        recorders = []
        try:
            while len(recorders) < 30:
                recorders += [Recorder(store)]
        finally:
            stop.set()
            thread.join(TIMEOUT)
        for recorder in recorders:
            recorder.wait_state({"k": b"a"})


def test_what_a_missing_library_says():
    program = (
        "import sys; sys.modules['ruamel.yaml'] = None; sys.modules['tomlkit'] = None\n"
        "import datastream\n"
        "from pathlib import Path\n"
        "Path('s.toml').write_text('a = 1'); Path('s.yaml').write_text('a: 1')\n"
        "with datastream.open('file:s.toml') as store:\n"
        "    print(store['a'])\n"
        "    try: store['a'] = 2\n"
        "    except ImportError as error: print(error)\n"
        "try: datastream.open('file:s.yaml')\n"
        "except ImportError as error: print(error)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        output = subprocess.check_output(
            [sys.executable, "-c", program], text=True, cwd=directory
        ).splitlines()
    assert output[0] == "1"
    assert len(output) == 3
    assert all('pip install "datastream-kv[documents]"' in line for line in output[1:])
    assert Path.cwd() != directory


# The environment.


def test_the_environment(monkeypatch, caplog):
    monkeypatch.setenv("DSTEST_DB__URL", "postgres://db")
    monkeypatch.setenv("DSTEST_DB__POOL", "5")
    monkeypatch.setenv("DSTEST_DEBUG", "true")
    monkeypatch.setenv("DSTEST_HOSTS", '["a", "b"]')
    monkeypatch.setenv("DSTEST_ODD__", "x")
    monkeypatch.setenv("DSTEST_debug", "false")
    with datastream.open("env:DSTEST_") as store:
        assert dict(store) == {
            "db/url": "postgres://db",
            "db/pool": 5,
            "debug": True,
            "hosts": ["a", "b"],
        }
        assert "DSTEST_ODD__" in caplog.text
        assert "DSTEST_debug" in caplog.text
        recorder = Recorder(store)
        recorder.wait_ready()
        monkeypatch.setenv("DSTEST_DB__POOL", "6")
        store.refresh()
        recorder.wait(lambda r: r.state["db/pool"] == b"6")
        assert [e.key for e in recorder.live] == ["db/pool"]
    with datastream.open("env:DSTEST_?case_sensitive=true") as store:
        assert store["DB/URL"] == "postgres://db"
        assert store["debug"] is False


def test_a_variable_that_was_the_only_one_is_gone_at_once(monkeypatch, caplog):
    monkeypatch.setenv("DSTEST_A", "1")
    with datastream.open("env:DSTEST_") as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        monkeypatch.delenv("DSTEST_A")
        store.refresh()
        recorder.wait_state({})
        monkeypatch.setenv("DSTEST_B", "2")
        store.refresh()
        recorder.wait_state({"b": b"2"})
    assert caplog.messages == []


def test_a_document_that_is_a_link_is_swapped_as_kubernetes_does_it(tmp_path):
    def version(name, text):
        (tmp_path / name).mkdir()
        (tmp_path / name / "app.yaml").write_text(text)
        (tmp_path / "..new").symlink_to(name)
        (tmp_path / "..new").rename(tmp_path / "..data")

    version("..1", "a: 1\nb: 1\n")
    (tmp_path / "app.yaml").symlink_to("..data/app.yaml")
    with datastream.open(f"file:{tmp_path}/app.yaml") as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "b": b"1"})
        version("..2", "a: 2\nb: 2\n")
        recorder.wait_state({"a": b"2", "b": b"2"})
        assert len(recorder.batches) == 2


@pytest.mark.parametrize(("name", "text"), [("s.toml", TOML), ("s.yml", YAML), ("s.json", JSON)])
def test_line_ends_of_windows_stay_as_a_whole(file, name, text):
    path, store = file(name, "")
    path.write_bytes(text.replace("\n", "\r\n").encode())
    store["db/pool"] = 6
    store["new/key"] = "x"
    data = path.read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") > text.count("\n")
    assert (store["db/pool"], store["new/key"], store["title"]) == (6, "x", "live")


MERGED = "base: &b\n  x: 1\nuse:\n  <<: *b\n  y: 2\n"
ALIASED = "base: &b\n  x: 1\nuse: *b\nother: 1\n"


@pytest.mark.parametrize(
    ("text", "key"), [(MERGED, "base/x"), (ALIASED, "base/x"), (ALIASED, "use/x")]
)
def test_what_yaml_says_once_for_two_keys_is_told_for_both(file, text, key):
    _, store = file("s.yaml", text)
    recorder = Recorder(store)
    recorder.wait_ready()
    store[key] = 7
    store.flush()
    told = {entry.key: entry.value for entry in recorder.batches[-1]}
    assert told == {"base/x": b"7", "use/x": b"7"}


@pytest.mark.parametrize(
    ("text", "write"),
    [
        (MERGED, lambda store: store.delete("use/x")),
        (MERGED, lambda store: store.delete("base/x")),
        (ALIASED, lambda store: store.put_many({"use/x": 1, "base/x": 2})),
    ],
)
def test_what_yaml_cannot_say_of_one_key_alone_is_refused(file, text, write):
    path, store = file("s.yaml", text)
    with pytest.raises(InvalidValue, match="nothing was written"):
        write(store)
    assert path.read_text() == text
