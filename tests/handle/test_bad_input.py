"""Proves that bad input is refused before anything starts, by an error that says what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.support import run_python


def one(item: Any) -> Any:
    return item


def two(left: Any, right: Any) -> Any:
    return left, right


def none() -> None: ...


def many(item: Any) -> Any:
    yield item


@dataclasses.dataclass
class Point:
    x: int


def typed(point: Point) -> int:
    return point.x


FRAME = pd.DataFrame({"city": ["Bonn"], "zip": ["53111"]})

CASES: dict[str, tuple[Callable[..., Any], str]] = {
    "no function": (partial(rnb.map, "fetch", [1]), r"'package.module:function', and 'fetch' is not"),
    "items first": (partial(rnb.map, [1], one), r"function comes first, and \[1\] is none"),
    "a generator function": (partial(rnb.map, many, [1]), r"has a `yield`.*Return a list"),
    "too few parameters": (partial(rnb.map, none, [1]), r"none\(\).*cannot be called with an item"),
    "too many parameters": (partial(rnb.map, two, [1]), r"functools\.partial\(two"),
    "a tuple for two parameters": (partial(rnb.map, two, [(1, 2)]), r"rnb\.starmap\(two, items\)"),
    "starmap over single values": (partial(rnb.starmap, two, [1]), r"item 0 is 1\. For single arguments use rnb\.map"),
    "starmap with a wrong count": (partial(rnb.starmap, two, [(1, 2), (1, 2, 3)]), r"item 1, \(1, 2, 3\)"),
    "columns that do not match": (
        partial(rnb.map, lambda city: city, FRAME),
        r"lambda\(city\) cannot be called with the columns \(city, zip\).*df\[\[\.\.\.\]\]",
    ),
    "a column that is missing": (partial(rnb.map, lambda city, zip, street: 1, FRAME), r"missing.*'street'"),
    "a column that is no name": (
        partial(rnb.map, lambda city, zip: city, FRAME.rename(columns={"zip": "zip code"})),
        r"'zip code' can be no parameter's name: rename it",
    ),
    "a column that is no text": (
        partial(rnb.map, lambda **row: row, FRAME.rename(columns={"zip": None})),
        r"column (None|nan) cannot be one\. Rename it",
    ),
    "a column twice": (
        partial(rnb.map, lambda **row: row, pd.concat([FRAME, FRAME], axis=1)),
        r"'city' is there twice",
    ),
    "concurrency 0": (partial(rnb.map, one, [1], concurrency=0), r"concurrency must be at least 1, not 0"),
    "concurrency as text": (partial(rnb.map, one, [1], concurrency="10"), r"whole number, such as concurrency=10"),
    "concurrency as truth": (partial(rnb.map, one, [1], concurrency=True), r"concurrency must be a whole number"),
    "a negative timeout": (partial(rnb.map, one, [1], timeout=-1), r"timeout must be more than 0 seconds, not -1"),
    "a negative timedelta": (partial(rnb.map, one, [1], timeout=timedelta(seconds=-1)), r"timeout must be more than 0"),
    "a timeout as text": (partial(rnb.map, one, [1], timeout="5s"), r"timeout must be seconds .* or a timedelta"),
    "retry as a number": (partial(rnb.map, one, [1], retry=3), r"retry=rnb\.Retry\(max_attempts=3\)"),
    "no attempts": (lambda **_: rnb.Retry(max_attempts=0), r"max_attempts must be at least 1"),
    "retry on no exception": (lambda **_: rnb.Retry(retry_on="OSError"), r"retry_on takes exception classes"),  # type: ignore[arg-type]
    "jitter out of range": (lambda **_: rnb.Retry(jitter=2), r"jitter must be between 0 and 1"),
    "an item without a JSON form": (
        partial(rnb.map, one, [1, 2, object()]),
        r"Item 2, <object .*>, cannot be sent: An object of class object cannot be kept",
    ),
    "an item without a JSON form in a Series": (
        partial(rnb.map, one, pd.Series([1, object()], index=["a", "b"])),
        r"Item 1 \(index 'b'\)",
    ),
    "an item that does not fit the annotation": (
        partial(rnb.map, typed, [{"x": 1}, {"x": "one"}]),
        r"Item 1 does not fit parameter 1 of typed: .*Expected `int`",
    ),
    "text as items": (partial(rnb.map, one, "abc"), r"items is one str, not a collection.*\[item\]"),
    "a number as items": (partial(rnb.map, one, 5), r"items must be a list"),
    "a set": (partial(rnb.map, one, {1, 2}), r"sorted\(items\)"),
    "an empty name": (partial(rnb.map, one, [1], name=" "), r"job's name is printable text"),
    "a name with a line break": (partial(rnb.map, one, [1], name="a\nb"), r"'a\\nb' is not"),
    "a name that is no text": (partial(rnb.map, one, [1], name=3), r"name='geocode-2026'; 3 is not"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_with_advice_and_nothing_is_started(session: Session, case: str) -> None:
    call, says = CASES[case]
    before = len(session.jobs)
    with pytest.raises(rnb.InvalidInput, match=f"(?s){says}") as caught:
        call(session=session, show=False)
    print(caught.value)
    assert len(session.jobs) == before
    assert str(caught.value).endswith(".") or "rnb." in str(caught.value)


def test_an_async_iterator_is_refused(session: Session) -> None:
    async def items() -> Any:
        yield 1

    with pytest.raises(rnb.InvalidInput, match="async for item"):
        rnb.map(one, items(), session=session)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["my notebook", "", "1st", "ä", "a" * 61, "a/b", 5])
def test_a_session_name_that_a_service_cannot_have_is_refused_with_one_that_would_do(name: Any) -> None:
    with pytest.raises(rnb.InvalidInput, match="would do"):
        rnb.start(name)


def test_a_job_without_a_session_says_what_to_run_first() -> None:
    with pytest.raises(rnb.InvalidInput, match=r"rnb\.start\(\)"):
        rnb.map(one, [1])


@pytest.mark.parametrize(
    "name",
    [
        *("ein Job: größer/als 1", "a b", "100%", "#?&", "x" * 200, "日本", "😀" * 200, "e\u0301", "None", "a/0/1"),
        *("..", ".", "/", "a/../b", ".hidden", "%2e%2e", "a%2Fb", "a\\b", "'\"<b>"),
    ],
)
def test_any_printable_job_name_works_and_is_found_again(session: Session, name: str) -> None:
    assert rnb.map(one, [1, 2], name=name, session=session, show=False).values() == [1, 2]
    again = rnb.map(one, [1, 2], name=name, session=session, show=False)
    assert (again.name, again.attached) == (name, 2)
    assert session.job(name) is again
    again.pause()
    again.resume()
    assert name in set(rnb.jobs(session)["name"])
    again.delete()
    assert name not in set(rnb.jobs(session)["name"])


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", " a", "a ", "a\tb", "a\0b", "\x7f", "x" * 201, b"a"),
        *("\ud800", "a\udcff", "\u200b", "a\u202eb", "\u2028", "\ufeff"),
    ],
)
def test_a_job_name_that_cannot_be_printed_is_refused_at_once(session: Session, name: Any) -> None:
    before = len(session.jobs)
    with pytest.raises(rnb.InvalidInput, match="job's name is printable text"):
        rnb.map(one, [1], name=name, session=session, show=False)
    assert len(session.jobs) == before


@pytest.mark.parametrize(
    ("items", "fn", "values", "index"),
    [
        (pd.Series([1, 2], index=["a", "b"]), one, [1, 2], ["a", "b"]),
        (FRAME, lambda city, zip: city + zip, ["Bonn53111"], [0]),
        (FRAME.set_index("zip"), lambda city: city, ["Bonn"], ["53111"]),
        ({"a": 1, "b": 2}, one, [1, 2], ["a", "b"]),
        (range(3), one, [0, 1, 2], [0, 1, 2]),
        ((each for each in "ab"), one, ["a", "b"], [0, 1]),
        (pd.Series([1, 2]).to_numpy(), one, [1, 2], [0, 1]),
        ([(1, 2)], one, [(1, 2)], [0]),
    ],
    ids=["Series", "DataFrame", "DataFrame with index", "dict", "range", "generator", "array", "tuples"],
)
def test_each_kind_of_input_keeps_its_values_and_its_index(
    session: Session, items: Any, fn: Any, values: list[Any], index: list[Any]
) -> None:
    job = rnb.map(fn, items, session=session, show=False)
    assert job.values() == values
    frame = job.result(10)
    assert frame["value"].tolist() == values
    assert frame.index.tolist() == index


def test_a_second_start_returns_the_live_session_and_another_name_is_refused(tmp_path: Any) -> None:
    with rnb.start("first", data_dir=tmp_path) as session:
        assert rnb.start() is session
        assert rnb.start("first") is session
        with pytest.raises(rnb.InvalidInput, match=r"'first'.* is live"):
            rnb.start("second")
    assert repr(session) == "<Session 'first': stopped>"
    with pytest.raises(rnb.InvalidInput, match="stopped"):
        rnb.map(one, [1], session=session)


def test_a_coroutine_of_the_cell_can_be_waited_for_inside_a_running_loop() -> None:
    """In a process of its own: nesting loops patches asyncio for good."""
    code = """
import asyncio, restate_nb as rnb
async def inner():
    await asyncio.sleep(0)
    return 3
async def cell():
    return rnb.run(inner())
print(rnb.run(inner()), asyncio.run.__module__, asyncio.run(cell()))
"""
    assert run_python(code).stdout.split() == ["3", "asyncio.runners", "3"]
