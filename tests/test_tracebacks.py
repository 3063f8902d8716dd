"""Proves that whatever an item raises can be told: no exception's own code keeps its outcome from being recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from restate_nb import tracebacks
from restate_nb.backpressure import pushback
from restate_nb.engine.attempt import RunningAttempt
from restate_nb.engine.outbox import Entry
from restate_nb.engine.record import Attempt, Group, decode_group, describe, encode_group
from restate_nb.policy import Retry


def ends(*_: Any) -> Any:
    raise SystemExit(3)


def with_property(name: str, get: Callable[..., Any]) -> BaseException:
    return type("Odd", (Exception,), {name: property(get)})("odd")


class Text(str):
    """A str whose own methods end the process."""

    __getitem__ = encode = __str__ = ends


class Answer:
    """Not even its attributes can be read."""

    __getattribute__ = ends


class Meta(type):
    """A class that nobody can ask what it is."""

    __instancecheck__ = ends
    __mro__ = property(ends)


def deep(levels: int) -> BaseException:
    error: Exception = ValueError("leaf")
    for _ in range(levels):
        error = ExceptionGroup("group", [error])
    return error


def chain(length: int) -> BaseException:
    error = ValueError(0)
    for number in range(length):
        error, cause = ValueError(number), error
        error.__cause__ = cause
    return error


def circle() -> BaseException:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def with_attributes(error: BaseException, **attributes: Any) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


READ = ("__cause__", "__context__", "__suppress_context__", "__traceback__", "__notes__", "__class__", "__dict__")
ASKED = ("status", "status_code", "response", "headers", "retry_after")


def hostile() -> Iterator[tuple[str, BaseException]]:
    for name in (*READ, *ASKED):
        yield f"{name} ends", with_property(name, ends)
        yield f"{name} is a number", type("Odd", (Exception,), {name: 5})("odd")
    for name in ("__str__", "__repr__", "__getattribute__"):
        yield f"{name} ends", type("Odd", (Exception,), {name: ends})("odd")
    yield "__str__ gives no text", type("Odd", (Exception,), {"__str__": lambda _: 5})()
    yield "__str__ gives an odd text", type("Odd", (Exception,), {"__str__": lambda _: Text("x" * 9_000)})()
    yield "always another cause", with_property("__cause__", lambda self: type(self)())
    yield "metaclass", Meta("Odd", (Exception,), {})()
    yield "group of 5,000 levels", deep(5_000)
    yield "group of 20,000", ExceptionGroup("many", [ValueError(each) for each in range(20_000)])
    yield "chain of 3,000", chain(3_000)
    yield "circle of causes", circle()
    yield "surrogates", ValueError("a\udcff")
    yield "50 MB", ValueError("x" * 50_000_000)
    yield "long name", type("N" * 5_000, (Exception,), {})()
    yield "notes of other types", with_attributes(ValueError("n"), __notes__=["a", 5, Text("b")])
    yield "notes that are none", with_attributes(ValueError("n"), __notes__=5)
    yield "syntax error of nowhere", with_attributes(SyntaxError("m"), lineno="a", text=5, offset={})
    yield "odd answer", with_attributes(ValueError("r"), response=Answer(), headers=Answer(), status=Answer())
    yield "base group", BaseExceptionGroup("b", [SystemExit(1), KeyboardInterrupt()])
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("base"), StopIteration(5)):
        yield type(error).__name__, error


@pytest.mark.parametrize(("what", "error"), [pytest.param(*each, id=each[0]) for each in hostile()])
def test_every_exception_becomes_a_record_that_can_be_written(what: str, error: BaseException) -> None:
    try:
        raise error
    except BaseException as raised:
        report = RunningAttempt(Entry(4, None), Retry(), 1.0, time.perf_counter()).raised(raised)
    (attempt,) = decode_group(encode_group(Group.of([report.attempt])))
    assert attempt.failure is not None
    assert attempt.failure.type == type.__dict__["__qualname__"].__get__(type(error))[:200]
    assert len(attempt.failure.message) <= 2_000
    assert len(attempt.failure.traceback) <= 6_000
    assert attempt.failure.where.startswith("test_tracebacks.py:"), what


def test_what_is_inside_of_a_deep_group_is_told() -> None:
    assert "ValueError: leaf" in describe(deep(5_000)).traceback


def test_a_message_out_of_all_proportion_leaves_room_for_the_lines() -> None:
    try:
        raise ValueError("x" * 1_000_000)
    except ValueError as error:
        assert "test_a_message_out_of_all_proportion" in describe(error).traceback


def test_an_exception_without_surprises_is_told_as_python_tells_it() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            error.add_note("a note")
            raise ValueError("outer") from error
    except ValueError as error:
        text = describe(error).traceback
    assert "KeyError: 'inner'\na note\n\nThe above exception was the direct cause" in text


def test_slow_down_is_heard_of_whatever_the_types_of_what_says_so() -> None:
    class Status(int):
        __eq__ = __hash__ = ends

    assert pushback(with_attributes(ValueError(), status=Status(429))) == 0.0
    assert pushback(with_attributes(ValueError(), status=429, headers={"Retry-After": "7"})) == 7.0
    assert pushback(with_attributes(ValueError(), retry_after=10**400)) == 30 * 86_400
    assert pushback(with_property("status", ends)) is None


def _raise_in(file: str) -> BaseException:
    code: CodeType = compile("def f():\n    raise ValueError('mine')\n", file, "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    try:
        names["f"]()
    except ValueError as error:
        return error
    raise AssertionError


PACKAGE = Path(tracebacks.__file__).parent


@pytest.mark.parametrize(
    "file",
    [
        f"{PACKAGE}_jobs.py",
        f"{PACKAGE}.py",
        f"{PACKAGE}-2/jobs.py",
        f"{Path(tracebacks.traceback.__file__).parent}-mine/jobs.py",
        "/home/me/site-packages-demo/jobs.py",
        "/home/me/my-dist-packages/jobs.py",
        "/home/me/ipykernel_tools.py",
    ],
)
def test_a_file_whose_name_begins_like_the_packages_is_the_users(file: str) -> None:
    failure = describe(_raise_in(file))
    assert failure.where == f"{Path(file).name}:2 in f"
    assert f'File "{file}", line 2' in failure.traceback


def test_the_packages_own_lines_and_libraries_are_not_the_users() -> None:
    error = _raise_in(f"{PACKAGE}/engine/pool.py")
    trace = error.__traceback__
    assert trace is not None
    assert describe(error.with_traceback(trace.tb_next)).where == ""
    assert describe(_raise_in("/usr/lib/site-packages/x.py")).where.startswith("test_tracebacks.py:")
    assert describe(_raise_in("/tmp/ipykernel_123/45.py")).where == "cell:2 in f"


def test_a_record_without_a_failure_is_untouched() -> None:
    attempt = Attempt(1, 1, 0, 1.0, 2.0)
    assert list(decode_group(encode_group(Group.of([attempt])))) == [attempt]
