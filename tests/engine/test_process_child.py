"""What a worker process does with an item: values, errors, coroutines, and a function that cannot be loaded."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from restate_nb.engine.attempt import Report, RunningAttempt
from restate_nb.engine.outbox import Entry
from restate_nb.engine.process_child import Loaded, OneLoop, call_args, call_kwargs, call_pickled, call_value
from restate_nb.engine.record import ERROR, OK
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.values.classes import Classes
from restate_nb.values.codec import decode, encode


def halve(number: int, by: int = 2) -> float:
    return number / by


async def on_one_loop(number: int) -> list[int]:
    await asyncio.sleep(0)
    return [number, id(asyncio.get_running_loop())]


async def gives_no_json(number: int) -> object:
    return object()


def unloadable() -> Any:
    raise ImportError("no such library here")


class Unloadable:
    def __reduce__(self) -> Any:
        return unloadable, ()


class Worker:
    """A function as a worker process has it."""

    def __init__(self, call: Any, fn: Any, retry: Retry = NO_RETRY) -> None:
        more = (None,) if call is call_pickled else (Classes(), {})  # no annotation says what to rebuild
        self._loaded = Loaded(pickle.dumps((functools.partial(call, fn, *more), retry)))
        self._loop = OneLoop()

    def run(self, position: int, number: int, payload: bytes) -> Report:
        attempt = RunningAttempt(Entry(position, payload, number), self._loaded.retry)
        # In a context of its own, or this process would be taken for one within an item.
        return attempt.report(contextvars.copy_context().run(self._loaded.run, attempt, self._loop.wait_for))

    def close(self) -> None:
        if self._loop.runner is not None:
            self._loop.runner.close()


Load = Callable[..., Worker]


@pytest.fixture
def loaded() -> Iterator[Load]:
    """Makes workers; in the end their loops are closed, as their processes would."""
    workers = []

    def load(call: Any, fn: Any, retry: Retry = NO_RETRY) -> Worker:
        workers.append(worker := Worker(call, fn, retry))
        return worker

    yield load
    for worker in workers:
        worker.close()


def value_of(report: Report) -> Any:
    assert report.attempt.status == OK
    return decode(report.attempt.value)


def test_items_are_passed_as_a_value_as_arguments_by_name_or_rebuilt(loaded: Load) -> None:
    assert value_of(loaded(call_value, halve).run(0, 1, encode(6))) == 3.0
    assert value_of(loaded(call_args, halve).run(0, 1, encode([6, 3]))) == 2.0
    assert value_of(loaded(call_kwargs, halve).run(0, 1, encode({"by": 6, "number": 6}))) == 1.0
    assert value_of(loaded(call_pickled, halve).run(0, 1, pickle.dumps(((6,), {"by": 4})))) == 1.5


def test_all_coroutines_of_a_worker_run_on_one_loop(loaded: Load) -> None:
    worker = loaded(call_value, on_one_loop)
    reports = [worker.run(position, 1, encode(position)) for position in range(3)]
    values = [value_of(report) for report in reports]
    assert [number for number, _ in values] == [0, 1, 2]
    assert len({loop for _, loop in values}) == 1
    assert [report.attempt.position for report in reports] == [0, 1, 2]
    assert all(report.attempt.ran >= 0 and report.attempt.started > 1e9 for report in reports)


def test_an_error_of_a_call_or_of_its_value_is_reported_with_its_item(loaded: Load) -> None:
    retry = Retry(max_attempts=2, initial_interval=0.5, jitter=0)
    for call, fn, payload, error in (
        (call_args, halve, [1, 0], "ZeroDivisionError"),
        (call_value, gives_no_json, 1, "NotEncodable"),
    ):
        report = loaded(call, fn, retry).run(4, 1, encode(payload))
        assert (report.attempt.position, report.attempt.number, report.attempt.status) == (4, 1, ERROR)
        assert report.attempt.failure is not None and report.attempt.failure.type == error


def test_a_function_that_cannot_be_loaded_fails_each_item_and_says_why(loaded: Load) -> None:
    worker = loaded(call_value, Unloadable())
    for position in range(2):
        failure = worker.run(position, 1, encode(1)).attempt.failure
        assert failure is not None and failure.type == "ImportError" and failure.retry_in is None
        assert "could not be loaded in its worker process" in failure.traceback
