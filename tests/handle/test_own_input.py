"""Proves that a job's input is its own: items, values and index stay together whatever the caller changes."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest

import restate_nb as rnb
from restate_nb.engine.function import Function
from restate_nb.handle.items import read_inputs, read_items
from restate_nb.handle.originals import own_source
from restate_nb.session.session import Session
from restate_nb.values.codec import encode
from tests.handle.counted import spoils, spoils_soon
from tests.support import submit


def text_of(item: Any) -> str:
    return repr(item)


CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "cleared": lambda items: items.clear(),
    "reversed": lambda items: items.reverse(),
    "sorted": lambda items: items.sort(key=lambda each: -each["n"]),
    "extended": lambda items: items.extend([{"n": 9}] * 3),
    "shortened": lambda items: items.pop(0),
    "replaced": lambda items: items.__setitem__(slice(None), [1, 2, 3]),
    "changed in depth": lambda items: [each["in"].append(7) for each in items],
    "emptied in depth": lambda items: [each.clear() for each in items],
    "given other values": lambda items: [each.update(n=99) for each in items],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["at once", "while it runs", "after the end"])
def test_a_list_may_be_changed_as_soon_as_its_job_is_submitted(session: Session, change: str, when: str) -> None:
    items = [{"n": number, "in": [number]} for number in range(3)]
    before = copy.deepcopy(items)
    job = submit(session, text_of, items, name=f"{change} {when}", concurrency=1)
    if when == "while it runs":
        job.wait(0.001)
    if when == "after the end":
        job.result()
    CHANGES[change](items)
    frame = job.result()
    assert frame["item"].tolist() == before
    assert frame["value"].tolist() == list(map(repr, before))
    assert [(row.item, row.value) for row in sorted(rnb.as_completed(job), key=lambda row: row.index)] == list(
        zip(before, map(repr, before), strict=True)
    )
    assert job.join()["item"].tolist() == before
    assert submit(session, text_of, before, name=f"{change} {when}").attached == 3


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
def test_what_the_function_does_to_its_argument_is_seen_by_nobody_else(session: Session, executor: str) -> None:
    shared = {"n": 1, "in": [1, 2]}
    attempts = rnb.Retry(max_attempts=2, initial_interval=0.01)
    options: dict[str, Any] = {"retry": attempts, "name": f"spoils {executor}"}
    if executor != "loop":
        options["executor"] = executor
    job = submit(session, spoils_soon if executor == "loop" else spoils, [shared] * 3, **options)
    frame = job.result(timeout=60)
    assert frame["attempts"].tolist() == [2, 2, 2]
    assert frame["error"].str.endswith("was {'n': 1, 'in': [1, 2]}").all()
    assert frame["item"].tolist() == [{"n": 1, "in": [1, 2]}] * 3
    frame["item"].iloc[0]["n"] = 5
    assert job.frame()["item"].tolist() == [{"n": 1, "in": [1, 2]}] * 3
    assert shared == {"n": 1, "in": [1, 2]}


def test_a_frame_and_its_index_may_be_changed(session: Session) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "cell": [[1], [2], [3]]}, index=pd.Index([7, 8, 9], name="key"))
    job = submit(session, lambda a, cell: [a, cell], frame, name="frame")
    frame.loc[7, "a"] = 99
    frame["cell"].iloc[1].append(5)
    frame.index.name = "other"
    frame.columns.name = "columns"
    del frame["a"]
    frame.index = pd.Index([0, 0, 0])
    result = job.result()
    assert result["item"].tolist() == [{"a": n, "cell": [n]} for n in (1, 2, 3)]
    assert (result.index.tolist(), result.index.name) == ([7, 8, 9], "key")
    joined = job.join()
    assert joined["a"].tolist() == [1, 2, 3]
    assert joined["cell"].tolist() == [[1], [2], [3]]
    joined["cell"].iloc[0].clear()
    assert job.join()["cell"].tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    "series",
    [
        pd.Series([3, 1, 2], index=list("abc"), name="n"),
        pd.Series([[1], [2], [3]], index=list("abc")),
        pd.Series(["x", None, "z"], dtype="string"),
        pd.Series(pd.Categorical(["a", "b", "a"])),
        pd.Series([{"n": 1}, 2, None], dtype=object),
        pd.Series(["a", "b", "c"], dtype=object),
        pd.Series(pd.date_range("2026", periods=3, tz="Europe/Berlin")),
    ],
    ids=["numbers", "lists", "text", "categories", "mixed", "text as objects", "times"],
)
def test_a_series_may_be_changed_and_keeps_its_dtype(
    session: Session, series: pd.Series[Any], request: pytest.FixtureRequest
) -> None:
    before = [encode(each) for each in series]
    job = submit(session, repr, series, name=f"series of {request.node.callspec.id}")
    for each in series:
        if isinstance(each, (list, dict)):
            each.clear()
    series.iloc[0] = series.iloc[2]
    frame = job.result()
    assert [encode(each) for each in frame["item"]] == before
    assert frame["item"].dtype == series.dtype
    assert frame["value"].tolist() == [repr(each) for each in frame["item"]]


def test_views_of_arrays_are_items_of_their_own(session: Session) -> None:
    array = np.arange(6).reshape(3, 2)
    job = submit(session, lambda row: int(row.sum()), array, name="views")
    listed = submit(session, lambda row: int(row.sum()), list(array), name="listed views")
    array[:] = 0
    for each in (job, listed):
        frame = each.result()
        assert frame["value"].tolist() == [1, 5, 9]
        assert [row.tolist() for row in frame["item"]] == [[0, 1], [2, 3], [4, 5]]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)


class Row(NamedTuple):
    a: int
    b: list[int]


class Record(msgspec.Struct):
    a: int


class Order(pydantic.BaseModel):
    sku: str = pydantic.Field(alias="SKU")


Loose = collections.namedtuple("Loose", "a b")


@pytest.mark.parametrize(
    "item",
    [Point(1, ["a"]), Row(1, [2]), Loose(1, 2), Record(1), Order(SKU="x"), Colour.RED, (1, "a"), (1, [2]), {"a": {1}}],
    ids=lambda item: type(item).__name__,
)
def test_items_are_shown_as_they_were_given_of_their_own_class(item: Any) -> None:
    items = [copy.deepcopy(item) for _ in range(2)]
    read = read_items(items, Function(text_of))
    for attribute in ("tags", "b", "a", "x", "sku"):
        if hasattr(items[1], attribute) and not isinstance(items[1], tuple):
            setattr(items[1], attribute, None)
    assert list(read.originals) == [item, item]
    assert {type(each) for each in read.originals} == {type(item)}
    assert read.originals[-1] == item


@pytest.mark.parametrize("seed", range(3))
def test_however_the_input_is_changed_item_value_and_index_stay_together(session: Session, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for trial in range(12):
        items: Any = _drawn(rng)
        labels = [f"label {n}" for n in range(len(items))] if rng.random() < 0.5 else None
        given: Any = items if labels is None else dict(zip(labels, items, strict=True))
        if labels is not None and rng.random() < 0.5:
            given = pd.Series(items, index=labels, dtype=object)
        before = [encode(each) for each in items]
        job = submit(session, text_of, given, name=f"seed {seed} trial {trial}", concurrency=rng.choice([1, 5]))
        for _ in range(rng.randrange(1, 6)):
            _spoil(rng, items, given)
            if rng.random() < 0.3:
                time.sleep(0.002)
                job.frame()
        frame = job.result(timeout=30)
        assert [encode(each) for each in frame["item"]] == before
        assert frame.index.tolist() == (labels or list(range(len(before))))
        ended = {row.index: row for row in rnb.as_completed(job)}
        for label, item, value in zip(frame.index, frame["item"], frame["value"], strict=True):
            assert value == text_of(item)
            assert (encode(ended[label].item), ended[label].value) == (encode(item), value)


def _drawn(rng: random.Random) -> list[Any]:
    def value(depth: int) -> Any:
        kind = rng.choice(["int", "text", "list", "dict", "tuple", "array"] if depth else ["int", "text"])
        if kind == "list":
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        if kind == "dict":
            return {rng.choice("abc"): value(depth - 1) for _ in range(rng.randrange(3))}
        if kind == "tuple":
            return tuple(value(depth - 1) for _ in range(rng.randrange(3)))
        if kind == "array":
            return np.array([rng.randrange(100) for _ in range(rng.randrange(1, 4))])
        return rng.randrange(100) if kind == "int" else rng.choice(["", "x", "ü"])

    shared = value(2)
    return [shared if rng.random() < 0.3 else value(2) for _ in range(rng.randrange(1, 9))]


def _spoil(rng: random.Random, items: list[Any], given: Any) -> None:
    """Change something of the input: the collection, or what is in it."""

    def deep(value: Any) -> None:
        if isinstance(value, list):
            rng.choice([value.clear, value.reverse, lambda: value.append(1)])()
        elif isinstance(value, dict):
            rng.choice([value.clear, lambda: value.update(a=-1)])()
        elif isinstance(value, np.ndarray):
            value[:] = -1
        elif isinstance(value, tuple):
            for each in value:
                deep(each)

    if items and rng.random() < 0.6:
        deep(rng.choice(items))
    elif isinstance(given, dict):
        rng.choice([given.clear, lambda: given.update(other=1)])()
    elif isinstance(given, pd.Series):
        given.iloc[rng.randrange(len(given))] = -1
    else:
        rng.choice([items.clear, items.reverse, lambda: items.append(0), lambda: rng.shuffle(items)])()


def test_a_copy_of_a_frame_shares_nothing_that_can_be_changed() -> None:
    frame = pd.DataFrame({"n": [1], "cell": [{"a": [1]}], "text": ["x"]})
    own = own_source(frame)
    pd.testing.assert_frame_equal(own, frame)
    frame["cell"].iloc[0]["a"].append(2)
    frame.columns = ["m", "other", "third"]
    assert own.columns.tolist() == ["n", "cell", "text"]
    assert own["cell"].tolist() == [{"a": [1]}]
    assert own_source([1]) is None


def test_inputs_of_handlers_may_be_changed_too() -> None:
    inputs = [{"sku": "a", "tags": [1]}, Order(SKU="x")]
    read = read_inputs(inputs, lambda item: repr(item).encode())
    inputs[0]["tags"].clear()  # type: ignore[index]
    inputs[1].sku = "changed"  # type: ignore[attr-defined]
    inputs.clear()
    assert list(read.originals) == [{"sku": "a", "tags": [1]}, Order(SKU="x")]


def test_items_that_cannot_change_are_kept_as_they_are() -> None:
    items = [str(number) for number in range(10_000)]
    read = read_items(items, Function(text_of))
    items.clear()
    assert read.originals[9_999] == "9999"
    assert isinstance(read_items(range(10), Function(text_of)).originals, range)


def test_columns_of_objects_stay_such_in_the_jobs_own_copy_of_a_frame() -> None:
    frame = pd.DataFrame({"a": pd.Series(["a\udcff", "b"], dtype=object), "b": pd.Series(["x", "y"], dtype=object)})
    for index in ([0, 1], [5, 5], pd.MultiIndex.from_tuples([(1, None), (1, None)])):
        own = own_source(frame.set_index(pd.Index(index)))
        assert own.dtypes.tolist() == [object, object]
        assert own["a"].tolist() == ["a\udcff", "b"]


def test_a_series_of_objects_is_joined_from_the_items_and_not_kept_twice(session: Session) -> None:
    cells = [{"n": 1}, pd.DataFrame({"n": [1, 2]}), None]
    given = pd.Series(cells, index=["a", "b", "b"], name=("x", 1), dtype=object)
    items = read_items(given, Function(text_of))
    assert len(items.source) == 0
    again = items.input_again()
    assert isinstance(again, pd.Series)
    assert (again.index.tolist(), again.name, again.dtype) == (["a", "b", "b"], ("x", 1), object)
    assert again.iloc[0] == {"n": 1}
    pd.testing.assert_frame_equal(again.iloc[1], cells[1])
    assert again.iloc[2] is None
    job = submit(session, text_of, given)
    job.result()
    assert list(job.join().columns[:2]) == [("x", 1), "value"]
