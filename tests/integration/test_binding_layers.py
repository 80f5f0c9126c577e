"""What a binding over layers says of where its values come from."""

from dulwich.repo import Repo
from pydantic import BaseModel

import datastream


class Settings(BaseModel):
    pool: int = 5
    greeting: str = "Hello"


def test_explain_names_who_wrote_what_a_layer_held_before(tmp_path):
    Repo.init(tmp_path / "team", mkdir=True).close()
    with (
        datastream.open(f"git:{tmp_path}/team") as team,
        datastream.open("memory:") as mine,
        datastream.overlay(mine, team) as stores,
    ):
        team.put("pool", 8, message="First", author="Ann <ann@example.org>")
        team.put("greeting", "Hi", message="Short", author="Bob <bob@example.org>")
        mine["greeting"] = "Hey"
        found = stores.bind(Settings).explain()
        assert found["pool"].author == "Ann <ann@example.org>"
        assert found["pool"].message.strip() == "First"
        assert (found["greeting"].layer, found["greeting"].author) == (mine.name, "")
        assert found["greeting"].hides[0].layer == team.name
