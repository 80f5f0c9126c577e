"""From values at paths to writes: what differs is written, and reads back as it was meant."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, Field, SecretStr

from datastream import Entry, InvalidValue, Unsupported, codecs
from datastream._binding.evaluate import Evaluator
from datastream._binding.layout import Layout
from datastream._binding.writing import plan


class Db(BaseModel):
    url: str = "none"
    pool: int = 5
    password: SecretStr = SecretStr("")


class Settings(BaseModel):
    limit: int = 10
    db: Db = Db()
    tags: list[str] = []
    more: dict[str, int] = {}
    maybe: Db | None = None


def entries(values):
    return {key: Entry(key, *codecs.encode(v), None, f"r-{key}") for key, v in values.items()}


def writes(held, values, place="app/"):
    """What is written, decoded; None for a delete."""
    made = plan(Evaluator(Settings, Layout(place)), entries(held), values, "settings")
    for write in made.writes:
        assert (
            write.expect
            == made.before[write.key]
            == (f"r-{write.key}" if write.key in held else "")
        )
    return {
        w.key: None if w.value is None else codecs.decode(w.value, w.value_type)
        for w in made.writes
    }


def test_only_what_differs_is_written():
    held = {"app/limit": 10, "app/db/url": "u"}
    assert writes(held, {("limit",): 10}) == {}
    assert writes(held, {("limit",): 11, ("db", "url"): "u"}) == {"app/limit": 11}
    assert writes(held, {("db", "pool"): 6}) == {"app/db/pool": 6}


def test_keys_are_spelled_as_they_are_there():
    assert writes({"app/DB/Url": "u"}, {("db", "url"): "v"}) == {"app/DB/Url": "v"}
    assert writes({"app/DB/Url": "u"}, {("db", "pool"): 6}) == {"app/DB/pool": 6}


def test_a_model_replaces_all_that_is_there():
    held = {"app/more/a": 1, "app/more/b": 2}
    assert writes(held, {("more",): {"b": 2, "c": 3}}) == {"app/more/a": None, "app/more/c": 3}
    found = writes({}, {("db",): Db(url="u", password=SecretStr("s"))})
    assert found == {"app/db/url": "u", "app/db/pool": 5, "app/db/password": "s"}


def test_json_is_written_into_where_it_is():
    held = {"app/db": {"url": "u", "pool": 1}}
    assert writes(held, {("db", "pool"): 2}) == {"app/db": {"url": "u", "pool": 2}}
    assert writes({}, {("tags",): ["a", "b"]}) == {"app/tags": ["a", "b"]}
    assert writes({"app/tags": ["a"]}, {("tags", "0"): "b"}) == {"app/tags": ["b"]}
    assert writes({"app/tags": ["a"]}, {("tags",): []}) == {"app/tags": []}


def test_two_paths_of_one_value_are_one_write():
    held = {"app/db": {"url": "u", "pool": 1}}
    found = writes(held, {("db", "pool"): 2, ("db", "url"): "v"})
    assert found == {"app/db": {"url": "v", "pool": 2}}


def test_the_type_that_is_there_is_kept_if_the_value_fits():
    evaluate = Evaluator(Settings, Layout("app/"))
    held = {"app/limit": Entry("app/limit", b"1", "json", None, "1")}
    (write,) = plan(evaluate, held, {("limit",): 2}, "settings").writes
    assert (write.value, write.value_type) == (b"2", "json")
    held = {"app/limit": Entry("app/limit", b"1", "str", None, "1")}
    (write,) = plan(evaluate, held, {("limit",): 2}, "settings").writes
    assert (write.value, write.value_type) == (b"2", "int")


def test_what_does_not_validate_is_not_written():
    with pytest.raises(InvalidValue, match="nothing was written: 'app/limit': limit: Input"):
        writes({"app/limit": 1}, {("limit",): "many"})
    with pytest.raises(InvalidValue):
        writes({"app/db/pool": "bad"}, {("limit",): 2})
    assert writes({"app/db/pool": "bad"}, {("db", "pool"): 2}) == {"app/db/pool": 2}


def test_a_json_document_keeps_its_indentation_and_what_the_model_does_not_know():
    text = '{\n    "db": {\n        "url": "u"\n    },\n    "other": 1\n}\n'
    held = {"app.json": Entry("app.json", text.encode(), "application/json", None, "1")}
    evaluate = Evaluator(Settings, Layout("app.json"))
    (write,) = plan(evaluate, held, {("db", "pool"): 6}, "settings").writes
    assert write.value_type == "application/json"
    made = write.value.decode()
    assert json.loads(made) == {"db": {"url": "u", "pool": 6}, "other": 1}
    assert made.startswith('{\n    "db": {\n        "url"')
    assert made.endswith("}\n")
    (write,) = plan(evaluate, {}, {("db", "pool"): 6}, "settings").writes
    assert (json.loads(write.value), write.expect) == ({"db": {"pool": 6}}, "")


DOCUMENTS = {
    "app.yaml": (
        '# ours\ndb:\n    url: "u"  # the one\nlimit: 1  # few\nother: [1, 2]\n',
        '# ours\ndb:\n    url: "u"  # the one\n    pool: 6\nlimit: 2  # few\nother: [1, 2]\n',
    ),
    "app.toml": (
        "# ours\nlimit = 1  # few\nother = [1, 2]\n\n[db]\nurl = 'u'  # the one\n",
        "# ours\nlimit = 2  # few\nother = [1, 2]\n\n[db]\nurl = 'u'  # the one\npool = 6\n",
    ),
}


@pytest.mark.parametrize("key", DOCUMENTS)
def test_other_documents_keep_their_comments_and_formatting(key):
    before, after = DOCUMENTS[key]
    held = {key: Entry(key, before.encode(), "str", None, "1")}
    evaluate = Evaluator(Settings, Layout(key))
    (write,) = plan(evaluate, held, {("limit",): 2, ("db", "pool"): 6}, "settings").writes
    assert (write.value.decode(), write.value_type, write.expect) == (after, "str", "1")
    (write,) = plan(evaluate, {}, {("db", "pool"): 6}, "settings").writes
    assert evaluate({key: Entry(key, write.value, write.value_type)}, {}).value.db.pool == 6
    (write,) = plan(evaluate, held, {("db",): {"url": "v"}}, "settings").writes
    assert "the one" in write.value.decode()


def test_a_document_without_an_editor_is_not_written():
    held = {"app": Entry("app", b"limit=1", "application/x-other", None, "1")}
    with pytest.raises((Unsupported, InvalidValue)):
        plan(Evaluator(Settings, Layout("app")), held, {("limit",): 2}, "settings")


@pytest.mark.parametrize("name", ["a/b", "", "a\0b"])
def test_what_no_key_can_be_is_written_as_json(name):
    assert writes({}, {("more",): {name: 1}}) == {"app/more": {name: 1}}


leaf = st.integers(0, 3)
values = st.fixed_dictionaries(
    {},
    optional={
        ("limit",): leaf,
        ("db", "pool"): leaf,
        ("db", "url"): st.sampled_from("uv"),
        ("tags",): st.lists(st.sampled_from("ab"), max_size=2),
        ("more",): st.dictionaries(st.sampled_from("ab"), leaf, max_size=2),
        ("maybe",): st.builds(Db, pool=leaf) | st.none(),
    },
)
held = st.fixed_dictionaries(
    {},
    optional={
        "app/limit": leaf,
        "app/DB/pool": leaf,
        "app/db": st.fixed_dictionaries({}, optional={"url": st.just("w"), "pool": leaf}),
        "app/db/url": st.just("x"),
        "app/tags/0": st.just("c"),
        "app/more": st.dictionaries(st.sampled_from("ac"), leaf, max_size=2),
        "app/more/b": leaf,
        "app/maybe/pool": leaf,
    },
)


@settings(max_examples=150, deadline=None)
@given(held, values)
def test_what_is_written_reads_back_or_is_refused(before, new):
    evaluate = Evaluator(Settings, Layout("app/"))
    there = entries(before)
    try:
        made = plan(evaluate, there, new, "settings")
    except (Unsupported, InvalidValue):
        return
    for write in made.writes:
        if write.value is None:
            del there[write.key]
        else:
            there[write.key] = Entry(write.key, write.value, write.value_type)
    found = evaluate(there, {})
    assert not found.rejected
    assert found.value == evaluate(entries(before), new).value


class Server(BaseModel):
    url: str = Field("u", alias="serverUrl")


class Aliased(BaseModel):
    limit: int = Field(1, alias="theLimit")
    server: Server = Field(Server(), validation_alias=AliasChoices("SERVER", "srv"))
    servers: list[Server] = []
    deep: int = Field(1, validation_alias=AliasPath("a", "b"))


@pytest.mark.parametrize(
    ("held", "written"),
    [
        ({}, {"theLimit": 2, "SERVER/serverUrl": "v", "servers/0/serverUrl": "w"}),
        (
            {"theLimit": 1, "srv/serverUrl": "u", "servers/3/url": "u"},
            {"theLimit": 2, "srv/serverUrl": "v", "servers/3/url": "w"},
        ),
        (
            {"limit": 1, "srv": {"url": "u"}, "servers": [{"serverUrl": "u"}]},
            {"limit": 2, "srv": {"url": "v"}, "servers": [{"serverUrl": "w"}]},
        ),
    ],
)
def test_what_has_an_alias_is_written_where_it_is_read(held, written):
    held = entries({f"app/{key}": value for key, value in held.items()})
    values = {("limit",): 2, ("server", "url"): "v", ("servers", "0", "url"): "w"}
    writes = plan(Evaluator(Aliased, Layout("app/")), held, values, "app").writes
    assert {w.key[4:]: codecs.decode(w.value, w.value_type) for w in writes} == written


def test_a_whole_model_is_written_by_its_aliases():
    evaluate = Evaluator(Aliased, Layout("app/"))
    values = {("server",): Server(serverUrl="v")}
    (write,) = plan(evaluate, {}, values, "app").writes
    assert write.key == "app/SERVER/serverUrl"


def test_what_an_alias_path_says_is_read_and_not_written():
    evaluate = Evaluator(Aliased, Layout("app/"))
    held = entries({"app/a/b": 5})
    assert evaluate(held, {}).value.deep == 5
    with pytest.raises(Unsupported, match="alias path"):
        plan(evaluate, held, {("deep",): 6}, "app")


def test_a_value_of_another_type_is_written_where_the_model_tells_them_apart():
    evaluate = Evaluator(dict[str, Any], Layout("app/"))
    held = entries({"app/ratio": 1.0})
    (write,) = plan(evaluate, held, {("ratio",): 1}, "app").writes
    assert (write.value, write.value_type) == (b"1", "int")
    floats = Evaluator(dict[str, float], Layout("app/"))
    (write,) = plan(floats, held, {("ratio",): 2}, "app").writes
    assert (float(write.value), write.value_type) == (2.0, "float")
