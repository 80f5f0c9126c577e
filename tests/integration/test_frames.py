"""Data frames of stores, views, histories and recordings."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dulwich.repo import Repo

import datastream
from datastream import Batch, Entry, InvalidValue, Store
from datastream.entry import deleted
from datastream.notebook import Recording, _recording
from datastream.notebook._recording import Rows
from datastream.notebook._span import seconds
from tests.integration._programs.tools import eventually

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def store() -> Iterator[Store]:
    with datastream.open("memory:") as store:
        store.put_many({"fx/USD": 1.08, "fx/GBP": 0.85, "motd": "hello"})
        yield store


def test_a_frame_has_what_the_entries_have(store: Store) -> None:
    frame = store.to_pandas("fx/")
    assert list(frame.index) == ["fx/USD", "fx/GBP"]
    assert (frame.index.name, frame["value"].dtype) == ("key", float)
    entry = store.entry("fx/USD")
    row = frame.loc["fx/USD"]
    assert (row["value"], row["value_type"], row["revision"]) == (1.08, "float", entry.revision)
    assert row["updated_at"] == entry.updated_at
    assert str(frame["updated_at"].dtype).endswith("UTC]")


def test_polars_has_the_same_columns_with_the_key_first(store: Store) -> None:
    frame = store.to_polars(match="fx/*")
    assert frame.columns == ["key", *store.to_pandas().columns]
    assert frame["value"].to_list() == [1.08, 0.85]
    import polars as pl

    assert frame.schema["updated_at"] == pl.Datetime("us", "UTC")


def test_values_of_several_kinds_and_none_that_decode_are_all_there(store: Store) -> None:
    store["limits"] = {"rps": 9}
    store.put("broken", b"x", value_type="int")
    expected = {
        "fx/USD": 1.08,
        "fx/GBP": 0.85,
        "motd": "hello",
        "limits": {"rps": 9},
        "broken": b"x",
    }
    assert store.to_pandas()["value"].to_dict() == expected
    frame = store.to_polars()
    assert dict(zip(frame["key"], frame["value"], strict=True)) == expected


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, None],
        [10**400, 2.5],
        [10**400, 1],
        [{"a": 1}, {"b": 2}],
        [{}, {"a": [1]}],
        [[1], ["x"]],
        [True, 1],
        [{"a": {"b": 1}}, 3],
    ],
    ids=lambda values: repr(values)[:20],
)
def test_polars_loses_no_value(values: list[Any]) -> None:
    with datastream.open("memory:") as store:
        store.put_many({str(number): value for number, value in enumerate(values)})
        column = store.to_polars()["value"]
    assert column.to_list() == values
    assert (str(column.dtype) == "Float64") == (values == [1, 2.5, None])


def test_what_selects_nothing_is_an_empty_frame_with_the_same_columns(store: Store) -> None:
    columns = list(store.to_pandas().columns)
    assert list(store.to_pandas("none/").columns) == columns
    assert len(store.to_polars("none/")) == 0
    assert store.to_pandas("none/").index.name == "key"


def test_a_view_gives_its_values_out_of_memory(store: Store) -> None:
    with store.view("fx/", as_=int) as view:
        frame = view.to_pandas()
        assert frame["value"].to_dict() == {"fx/USD": 1, "fx/GBP": 0}
        assert view.to_polars().to_dict(as_series=False) == {
            "key": ["fx/USD", "fx/GBP"],
            "value": [1, 0],
        }


def test_a_history_is_a_frame_newest_first(tmp_path: Path) -> None:
    Repo.init(str(tmp_path)).close()
    with datastream.open(f"git:{tmp_path}") as store:
        store.put("limit", 1, message="the first", author="Ada <ada@example.org>")
        store.put("limit", 2, message="the second")
        store.delete("limit", message="gone")
        frame = store.history("limit").to_pandas()
        assert frame["message"].str.strip().tolist() == ["gone", "the second", "the first"]
        assert frame["value"].isna().tolist() == [True, False, False]
        assert frame["value"].tolist()[1:] == [2, 1]
        assert frame["author"].iloc[2] == "Ada <ada@example.org>"
        assert frame.index.name == "updated_at"
        with store.at(frame["point"].iloc[1]) as past:
            assert past["limit"] == 2
        assert store.history("limit").to_polars()["message"].to_list() == list(frame["message"])
        assert len(store.history("never").to_pandas()) == 0


def test_a_window_is_the_state_after_each_batch(store: Store) -> None:
    with store.window("fx/", "5m", every=0) as window:
        store["fx/USD"] = 1.1
        store.put_many({"fx/USD": 1.2, "fx/SEK": 11.0})
        del store["fx/GBP"]
        eventually(lambda: len(window) == 4, "four rows")
        frame = window.to_pandas()
        assert frame["fx/USD"].tolist() == [1.08, 1.1, 1.2, 1.2]
        assert frame["fx/GBP"].tolist()[:3] == [0.85] * 3
        assert frame.isna().sum().to_dict() == {"fx/GBP": 1, "fx/SEK": 2, "fx/USD": 0}
        assert frame.index.is_monotonic_increasing
        assert window.to_polars().columns == ["time", "fx/GBP", "fx/SEK", "fx/USD"]
        from pandas.testing import assert_frame_equal

        assert_frame_equal(window.to_pandas(), frame)
    store["fx/USD"] = 9.9
    store.flush()
    assert window.to_pandas()["fx/USD"].max() == 1.2
    assert "1.2" in window._repr_html_()


def test_a_frame_of_a_window_is_yours_to_change(store: Store) -> None:
    with store.window("fx/") as window:
        frame = window.to_pandas()
        frame.loc[:, "fx/USD"] = 0.0
        assert window.to_pandas()["fx/USD"].tolist() == [1.08]


def test_rows_older_than_the_span_go_but_what_held_when_it_begins_stays() -> None:
    rows = Rows(timedelta(seconds=10))
    for second in range(0, 40, 4):
        rows.add(MOMENT + timedelta(seconds=second), _batch(a=second))
    rows.add(MOMENT + timedelta(seconds=40), _batch(b=1))
    rows.add(MOMENT + timedelta(seconds=41), _batch(a=7))
    times, columns, _ = rows.table(MOMENT + timedelta(seconds=48))
    assert [(time - MOMENT).seconds for time in times] == [36, 40, 41]
    assert columns == {"a": [36, 36, 7], "b": [None, 1, 1]}
    assert len(Recording("rows", rows)) == 3


def test_what_is_recorded_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_recording, "MOST_CHANGES", 100)
    rows = Rows(None)
    for number in range(1_000):
        rows.add(MOMENT, _batch(a=number, b=number))
    assert len(rows) == 50
    assert rows.table(MOMENT)[1]["a"] == list(range(950, 1_000))


def test_a_value_that_does_not_decode_leaves_the_one_before() -> None:
    rows = Rows(None)
    rows.add(MOMENT, _batch(a=1))
    rows.add(MOMENT, Batch((Entry("a", b"x", "int"),)))
    rows.add(MOMENT, Batch((deleted("a"),)))
    assert Recording("rows", rows).to_polars()["a"].to_list() == [1, 1, None]


def test_a_key_called_time_has_its_column(store: Store) -> None:
    store["time"] = 7
    with store.window("time") as window:
        assert window.to_pandas()["time"].tolist() == [7]
        assert window.to_polars().columns == ["_time", "time"]


def test_record_blocks_and_has_what_came(store: Store) -> None:
    writer = threading.Thread(target=lambda: store.put("fx/USD", 2.0))
    with store.window("fx/", every=0) as window:
        store.watch("fx/").subscribe(lambda _: writer.ident or writer.start())
        recording = store.record("fx/", seconds=0.3)
        writer.join()
        assert recording.to_pandas()["fx/USD"].iloc[-1] == 2.0
        assert window.to_pandas()["fx/USD"].iloc[-1] == 2.0
    store.put("fx/USD", 3.0)
    store.flush()
    assert recording.to_pandas()["fx/USD"].iloc[-1] == 2.0


def test_record_ends_with_the_store(store: Store) -> None:
    def close_when_it_is_watched() -> None:
        eventually(lambda: store._core._publisher.routes, "the watch")
        store.close()

    closing = threading.Thread(target=close_when_it_is_watched)
    closing.start()
    store.record(seconds=50)
    closing.join()


def test_arecord_leaves_the_loop_free(store: Store) -> None:
    async def both() -> Recording:
        recording, _ = await asyncio.gather(
            store.arecord("fx/", seconds=0.3), store.aput("fx/USD", 5.0)
        )
        return recording

    assert asyncio.run(both()).to_pandas()["fx/USD"].iloc[-1] == 5.0


def test_frames_come_to_an_event_loop(store: Store) -> None:
    async def frames() -> tuple[pd.DataFrame, pl.DataFrame]:
        return await store.ato_pandas("fx/"), await store.ato_polars("fx/", exclude="*/GBP")

    pandas_frame, polars_frame = asyncio.run(frames())
    assert (len(pandas_frame), len(polars_frame)) == (2, 1)


def test_a_window_that_is_dropped_follows_no_more(store: Store) -> None:
    window = weakref.ref(store.window("fx/"))
    gc.collect()
    assert window() is None
    eventually(lambda: not store._core._publisher.routes, "the end of the subscription")


@pytest.mark.parametrize(
    ("span", "length"),
    [("5m", 300), ("30s", 30), ("1.5h", 5400), ("2 d", 172_800), ("500ms", 0.5), (7, 7), ("9", 9)],
)
def test_a_span_is_written_as_people_do(span: str | int, length: float) -> None:
    assert seconds(span) == length
    assert seconds(timedelta(seconds=length)) == length


@pytest.mark.parametrize(
    "span", ["", "m", "5 apples", "-3s", 0, True, float("nan"), "1e9d", "400d"]
)
def test_what_is_no_span_is_refused(store: Store, span: str | float) -> None:
    with pytest.raises(InvalidValue, match="no span of time"):
        store.window("fx/", span)
    assert not store._core._publisher.routes


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_library_that_is_missing_is_named_with_its_extra(library: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "import datastream\n"
        f"try: datastream.open('memory:').to_{library}()\n"
        "except ImportError as error: print(error)"
    )
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert f'pip install "datastream-kv[{library}]"' in output


def _batch(**values: int) -> Batch:
    return Batch(tuple(Entry(key, str(value).encode(), "int") for key, value in values.items()))
