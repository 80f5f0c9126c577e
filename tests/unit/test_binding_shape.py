"""Keys in the shape of a model: segments, spellings, lists, unions, documents; without threads."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, SecretStr
from typing_extensions import TypedDict

from datastream import Entry, codecs
from datastream._binding.evaluate import Evaluator
from datastream._binding.layout import Layout
from datastream._binding.paths import at, differing, dotted, leaves, plain


def entries(values):
    made = {}
    for key, value in values.items():
        data, kind = codecs.encode(value)
        made[key] = Entry(key, data, kind, None, f"r-{key}")
    return made


def made(model, values, place="", overrides=None):
    return Evaluator(model, Layout(place))(entries(values), overrides or {})


def value(model, values, place="", overrides=None):
    outcome = made(model, values, place, overrides)
    assert outcome.rejected == ()
    return outcome.value


class Db(BaseModel):
    url: str
    pool: int = 5


class Settings(BaseModel):
    max_connections: int = 10
    db: Db


@dataclass
class Point:
    x: int
    y: int = 0
    tags: list[str] = field(default_factory=list)


class Pair(NamedTuple):
    a: int
    b: int = 2


class Hints(TypedDict):
    name: str
    size: NotRequired[int]


def test_segments_become_fields():
    found = value(Settings, {"app/db/url": "x", "app/max_connections": 7}, "app/")
    assert found == Settings(max_connections=7, db=Db(url="x"))


@pytest.mark.parametrize(
    "key", ["max_connections", "MAX_CONNECTIONS", "max-connections", "Max-Connections"]
)
def test_case_and_dashes_do_not_matter(key):
    assert value(Settings, {key: "7", "DB/URL": "x"}).max_connections == 7


def test_the_exact_spelling_wins_and_two_others_are_refused():
    both = {"db/url": "x", "max_connections": 1, "max-connections": 2}
    assert value(Settings, both).max_connections == 1
    outcome = made(Settings, {"db/url": "x", "Max_Connections": 1, "max-connections": 2})
    assert "both mean max_connections" in outcome.rejected[0].reason


def test_defaults_are_the_lowest_layer_and_what_lacks_is_listed_by_key():
    outcome = made(Settings, {}, "app/")
    assert outcome.missing == ("app/db/url",)
    assert outcome.rejected[0].reason == "db.url: Field required"

    class AllDefaults(BaseModel):
        point: Point = Point(1)
        inner: Annotated[dict[str, int], Field(default_factory=dict)]

    assert value(AllDefaults, {}) == AllDefaults()


def test_a_reason_names_the_key_its_revision_and_never_the_value():
    outcome = made(Settings, {"db/url": "x", "DB/pool": "hunter2", "db/pool": "hunter2"})
    (rejected,) = outcome.rejected
    assert (rejected.key, rejected.revision) == ("db/pool", "r-db/pool")
    assert rejected.reason.startswith("db.pool: Input should be a valid integer")
    assert "hunter2" not in rejected.reason


def test_json_in_a_key_is_a_part_and_keys_below_it_win():
    values = {"db": {"url": "x", "pool": 1}, "db/pool": 2}
    outcome = made(Settings, values)
    assert outcome.value.db == Db(url="x", pool=2)
    assert outcome.key_of(("db", "url")) == "db"
    assert outcome.key_of(("db", "pool")) == "db/pool"
    assert outcome.key_of(("max_connections",)) is None


class Lists(BaseModel):
    points: list[Point] = []
    pair: tuple[int, str] = (0, "")
    names: set[str] = set()
    more: dict[str, Db] = {}
    by_number: dict[int, float] = {}
    anything: Any = None
    span: timedelta = timedelta(0)


def test_lists_and_dicts_by_segment():
    found = value(
        Lists,
        {
            "points/0/x": 1,
            "points/10/x": 3,
            "points/2": {"x": 2, "tags": ["a"]},
            "pair/0": 1,
            "pair/1": "a",
            "names": ["a", "b"],
            "more/main/url": "u",
            "by_number/7": 1.5,
            "anything/a/b": 1,
            "span": "PT5S",
        },
    )
    assert found.points == [Point(1), Point(2, 0, ["a"]), Point(3)]
    assert (found.pair, found.names) == ((1, "a"), {"a", "b"})
    assert (found.more, found.by_number) == ({"main": Db(url="u")}, {7: 1.5})
    assert (found.anything, found.span) == ({"a": {"b": 1}}, timedelta(seconds=5))


def test_values_without_a_shape_stay_as_they_are():
    assert value(Lists, {"anything": {"x-Y": [1]}}).anything == {"x-Y": [1]}


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    bark: bool


class Pets(BaseModel):
    pet: Cat | Dog
    tagged: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    maybe: Optional[Db] = None  # noqa: UP045
    either: int | list[int] = 0


def test_unions_and_optional_parts():
    found = value(Pets, {"pet/kind": "dog", "pet/Bark": "true"})
    assert found.pet == Dog(kind="dog", bark=True)
    assert (found.tagged, found.maybe) == (None, None)
    found = value(
        Pets, {"pet/kind": "cat", "tagged/kind": "cat", "maybe/url": "u", "either": [1, 2]}
    )
    assert (found.tagged, found.maybe, found.either) == (Cat(kind="cat"), Db(url="u"), [1, 2])
    assert made(Pets, {"pet/kind": "cow"}).rejected
    assert made(Pets, {"pet/kind": "cat", "maybe/pool": 1}).missing == ("maybe/url",)


def test_every_kind_of_model():
    assert value(Point, {"x": "1", "tags/0": "a"}) == Point(1, 0, ["a"])
    assert value(Hints, {"name": "n", "Size": "3"}) == {"name": "n", "size": 3}
    assert made(Hints, {}).missing == ("name",)
    assert value(Pair, {"a": 1}) == Pair(1)
    assert value(dict[str, int], {"a": "1"}) == {"a": 1}
    assert value(list[int], {"0": 1, "1": 2}) == [1, 2]
    assert value(list[int], {}) == []
    assert value(RootModel[Db], {"url": "u"}).root == Db(url="u")
    assert value(Annotated[Db, "x"], {"url": "u"}) == Db(url="u")


def test_aliases_and_extra_fields():
    class Odd(BaseModel):
        model_config = ConfigDict(extra="forbid")
        first: int = Field(alias="the-first")
        second: int = Field(2, validation_alias=AliasChoices("zwei", "due"))

    assert value(Odd, {"the_first": 1, "due": 3}) == Odd(**{"the-first": 1, "zwei": 3})
    assert value(Odd, {"first": 1}).first == 1
    outcome = made(Odd, {"first": 1, "third": 3})
    assert outcome.rejected[0].key == "third"
    assert "Extra inputs" in outcome.rejected[0].reason


def test_a_key_that_does_not_decode_refuses_the_whole():
    broken = {"db/url": Entry("db/url", b"\xff", "str", None, "7")}
    outcome = Evaluator(Settings, Layout(""))(broken, {})
    assert [one[:2] for one in outcome.rejected] == [("db/url", "7")]


DOCUMENTS = {
    "app.json": ('{"db": {"url": "x"}}', "str"),
    "app.yaml": ("db:\n  url: x\n", "str"),
    "app.toml": ('[db]\nurl = "x"\n', "bytes"),
    "app": ('{"db": {"url": "x"}}', "json"),
    "other": ("db: {url: x}", "application/yaml"),
}


@pytest.mark.parametrize("key", DOCUMENTS)
def test_one_document_is_the_whole_object(key):
    text, kind = DOCUMENTS[key]
    evaluate = Evaluator(Settings, Layout(key))
    outcome = evaluate({key: Entry(key, text.encode(), kind, None, "1")}, {})
    assert outcome.value == Settings(db=Db(url="x"))
    assert outcome.key_of(("db", "url")) == key


def test_a_document_that_lacks_or_does_not_parse():
    evaluate = Evaluator(Settings, Layout("app.yaml"))
    assert evaluate({}, {}).missing == ("app.yaml: db.url",)
    outcome = evaluate({"app.yaml": Entry("app.yaml", b"db: [", "str", None, "1")}, {})
    assert outcome.rejected[0][:2] == ("app.yaml", "1")
    assert Evaluator(Point | None, Layout("a.yaml"))({"a.yaml": Entry("a.yaml", b"", "str")}, {})


def test_overrides_take_the_place_of_what_is_there():
    values = {"DB": {"url": "x", "pool": 1}, "db/pool": 3}
    found = value(Settings, {"Db/url": "x"}, overrides={("db", "pool"): 9})
    assert found.db == Db(url="x", pool=9)
    found = value(Settings, {"db": values["DB"]}, overrides={("db",): Db(url="y")})
    assert found.db == Db(url="y")


def test_validators_that_raise_anything_refuse():
    class Odd(BaseModel):
        x: int = 0

        def model_post_init(self, context):
            raise RuntimeError("no")

    assert "RuntimeError: no" in made(Odd, {}).rejected[0].reason


class Colour(Enum):
    RED = "red"


def test_paths_that_differ():
    old = Lists(points=[Point(1), Point(2)], more={"a": Db(url="u")})
    new = Lists(points=[Point(1, 5)], more={"a": Db(url="v"), "b": Db(url="w")})
    assert [dotted(p) for p in differing(old, new)] == [
        "points.0.y",
        "points.1",
        "more.a.url",
        "more.b",
    ]
    assert list(differing(old, old.model_copy(deep=True))) == []
    assert list(differing({"a": 1}, {"a": True})) == [("a",)]
    assert at(new, ("more", "a", "url")) == "v"
    assert at(new, ("more", "x", "url")) is None
    assert dict(leaves(Db(url="u"))) == {("url",): "u", ("pool",): 5}


def test_what_has_the_same_parts_and_is_of_another_kind_differs():
    class Cat(BaseModel):
        name: str = "x"

    class Dog(BaseModel):
        name: str = "x"

    assert list(differing({"a": {}}, {"a": []})) == [("a",)]
    assert list(differing({"a": Cat()}, {"a": Dog()})) == [("a",)]
    assert list(differing(Cat(), Dog())) == [("name",)]
    assert list(differing({"a": (1,)}, {"a": [1]})) == []


def test_what_is_written_are_plain_objects_secrets_too():
    class Odd(BaseModel):
        secret: SecretStr = SecretStr("s")
        colour: Colour = Colour.RED
        span: timedelta = timedelta(seconds=5)
        names: frozenset[str] = frozenset({"a"})
        pair: Pair = Pair(1)
        point: Point = Point(1)

    assert plain(Odd()) == {
        "secret": "s", "colour": "red", "span": "PT5S", "names": ["a"],
        "pair": {"a": 1, "b": 2}, "point": {"x": 1, "y": 0, "tags": []},
    }  # fmt: skip
