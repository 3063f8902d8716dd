"""Proves that a function is called as what it is: what a call gives is awaited or not, whatever it wraps."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.engine.function import Function, is_async, name_of
from restate_nb.session.session import Session
from tests.handle.counted import ran_alone, ran_alone_passed_on


async def inc(item: int) -> int:
    await asyncio.sleep(0)
    return item + 1


def run_alone(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a plain function of a coroutine function, as many libraries do."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        return asyncio.run(fn(*args))

    return call


def passed_on(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper that returns the coroutine."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        return fn(*args)

    return call


def awaiting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A coroutine function around a plain one."""

    @functools.wraps(fn)
    async def call(*args: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args)

    return call


def listed(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        return list(fn(*args))

    return call


class Waiter:
    """Awaitable, and no coroutine."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self.value


class Methods:
    async def method(self, item: int) -> int:
        return item + 1

    @staticmethod
    async def static(item: int) -> int:
        return item + 1

    @classmethod
    async def of_class(cls, item: int) -> int:
        return item + 1

    async def __call__(self, item: int) -> int:
        return item + 1

    def later(self, item: int) -> Any:
        return self.method(item)


def pair(item: int) -> Iterator[int]:
    yield item
    yield item + 1


CALLABLES: dict[str, Callable[[Any], Any]] = {
    "a coroutine function": inc,
    "a plain wrapper that runs it": run_alone(inc),
    "a plain wrapper around another": run_alone(awaiting(abs)),
    "a plain wrapper that passes it on": passed_on(inc),
    "wrappers in wrappers": passed_on(run_alone(passed_on(inc))),
    "a coroutine function around a plain one": awaiting(lambda item: item + 1),
    "a partial of a wrapper": functools.partial(run_alone(inc)),
    "a lambda that gives a coroutine": lambda item: inc(item),
    "a lambda that gives something awaitable": lambda item: Waiter(item + 1),
    "a coroutine method": Methods().method,
    "a static coroutine method": Methods.static,
    "a coroutine method of the class": Methods.of_class,
    "an object with a coroutine as its call": Methods(),
    "a method that returns a coroutine": Methods().later,
    "asyncio.to_thread": lambda item: asyncio.to_thread(lambda: item + 1),
    "a partial of a coroutine function": functools.partial(inc),
}


@pytest.mark.parametrize("executor", ["auto", "thread"])
def test_what_a_call_gives_decides_whether_it_is_awaited(session: Session, executor: Any) -> None:
    for what, fn in CALLABLES.items():
        given = [-3, -2] if "another" in what else [1, 2]
        job = rnb.map(fn, given, executor=executor, name=f"{what} {executor}", session=session, show=False)
        assert job.values() == ([3, 2] if "another" in what else [2, 3]), what
    assert rnb.map(listed(pair), [1], executor=executor, session=session, show=False).values() == [[1, 2]]


def test_callables_are_awaited_in_worker_processes_and_side_by_side(session: Session) -> None:
    options: dict[str, Any] = {"executor": "process", "session": session, "show": False}
    assert rnb.map(ran_alone, [1, 2], **options).values() == [2, 3]
    assert rnb.map(ran_alone_passed_on, [1, 2], **options).values() == [2, 3]
    operations = {"alone": functools.partial(run_alone(inc), 1), "on": lambda: inc(2), "wrapped": lambda: Waiter(4)}
    assert rnb.fan_out(operations, session=session, show=False).values() == [2, 3, 4]


def test_a_thread_of_its_own_is_where_the_coroutine_of_a_plain_function_runs(session: Session) -> None:
    def where(item: int) -> Any:
        async def look() -> str:
            return threading.current_thread().name

        return look()

    assert all("rnb-" in name for name in rnb.map(where, [1], executor="thread", session=session, show=False).values())
    names = rnb.map(where, [1], executor="auto", name="auto", session=session, show=False).values()
    assert names != [threading.current_thread().name]


def test_only_what_gives_a_coroutine_for_sure_is_taken_for_one() -> None:
    plain = ("plain wrapper", "wrappers in", "lambda", "returns", "to_thread", "partial of a wrapper")
    for what, fn in CALLABLES.items():
        assert is_async(fn) == (not any(each in what for each in plain)), what


class Generating:
    def __call__(self, item: int) -> Iterator[int]:
        yield item


async def many(item: int) -> AsyncIterator[int]:
    yield item


@pytest.mark.parametrize("fn", [pair, many, functools.partial(pair), Generating(), functools.partial(Generating())])
def test_what_gives_many_values_is_refused(fn: Any) -> None:
    with pytest.raises(rnb.InvalidInput, match="has a `yield`"):
        Function(fn)


@pytest.mark.parametrize("cache", [functools.cache, functools.lru_cache(maxsize=5)])
def test_a_cache_of_coroutines_is_refused_since_each_can_be_awaited_once(cache: Any) -> None:
    with pytest.raises(rnb.InvalidInput, match=r"functools\.cache, which keeps coroutines"):
        Function(cache(inc))
    assert Function(cache(abs)).name == "abs"


def test_a_generator_that_a_call_returns_is_an_error_that_says_what_to_do(session: Session) -> None:
    job = rnb.map(lambda item: (each for each in [item]), [1], session=session, show=False)
    assert "turned into a list" in job.result()["error"].iloc[0]
    job = rnb.map(many_later, [1], session=session, show=False)
    assert "turned into a list" in job.result()["error"].iloc[0]


def many_later(item: int) -> Any:
    return many(item)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a/b", "a/b"), ("x" * 500, "x" * 100), ("a\nb\udcff", "a_b_"), ("", "Named"), (" ", "Named"), (5, "Named")],
)
def test_a_function_of_any_name_makes_a_job_that_has_one(session: Session, name: Any, shown: str) -> None:
    class Named:
        def __call__(self, item: int) -> int:
            return item

    fn: Any = Named()
    fn.__name__ = name
    assert name_of(fn) == shown
    job = rnb.map(fn, [1], session=session, show=False)
    assert job.values() == [1]
    assert job.name.startswith(f"{shown}-")
