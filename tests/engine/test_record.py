"""What is kept of an exception tells where in the user's code it was, and nothing of the machine; records are
written as in every release."""

from __future__ import annotations

import json
import linecache

import msgspec
import pytest

from restate_nb.engine.record import (
    CANCELLED,
    ERROR,
    OK,
    STATUS_NAMES,
    TIMEOUT,
    WIRE_VERSION,
    Attempt,
    Failure,
    decode_group,
    describe,
    encode_group,
)


def test_a_cell_is_called_a_cell_and_its_lines_are_shown():
    name, source = "/tmp/ipykernel_4711/99.py", "def find(street):\n    raise LookupError(street)\n"
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    made: dict = {}
    exec(compile(source, name, "exec"), made)
    try:
        made["find"]("Main Street")
    except LookupError as error:
        failure = describe(error)
    assert failure.where == "cell:2 in find"
    assert 'File "cell", line 2, in find\n    raise LookupError(street)' in failure.traceback
    assert "4711" not in failure.traceback


def test_where_names_the_last_line_of_ones_own_and_not_the_library_that_it_called():
    def read(text):
        return json.loads(text)

    line = read.__code__.co_firstlineno + 1
    try:
        read("{")
    except ValueError as error:
        assert describe(error).where == f"test_record.py:{line} in read"


def test_long_messages_and_tracebacks_are_cut_where_the_docstring_says():
    try:
        raise ValueError("m" * 7_000 + "end")
    except ValueError as error:
        failure = describe(error, 2.5)
    assert failure.message == "m" * 2_000
    assert len(failure.traceback) == 6_000
    assert failure.traceback.endswith("mend\n"), "what is last says most"
    assert failure.retry_in == 2.5


def test_the_format_is_what_was_released():
    """These numbers and this order are in journals: they may never change, only be added to."""
    assert WIRE_VERSION == 1
    assert [STATUS_NAMES[status] for status in (OK, ERROR, TIMEOUT, CANCELLED)] == [
        "ok",
        "error",
        "timeout",
        "cancelled",
    ]
    assert (OK, ERROR, TIMEOUT, CANCELLED) == (0, 1, 2, 3)
    attempts = [
        Attempt(7, 1, ERROR, 100.5, 0.25, failure=Failure("E", "m", "w", "t", 0.5)),
        Attempt(7, 2, OK, 101.5, 0.5, msgspec.Raw(b'{"a":1}')),
    ]
    raw = b'[[7,1,1,100.5,0.25,null,["E","m","w","t",0.5]],[7,2,0,101.5,0.5,{"a":1},null]]'
    assert encode_group(attempts) == raw
    assert [each.final for each in decode_group(raw)] == [False, True]
    assert encode_group(decode_group(raw)) == raw


@pytest.mark.parametrize(
    ("record", "fine"),
    [
        ([0, 1, 0, 9.2e9, 9.2e9], True),
        ([0, 1, 0, -9.2e9, -9.2e9], True),
        ([0, 0, 3, 0.0, 0.0], True),
        ([0, 2**31 - 1, 0, 0.0, 0.0], True),
        ([0, 1, 0, 9_200_000_000.5, 0.0], False),
        ([0, 1, 0, 0.0, 9_200_000_000.5], False),
        ([0, 1, 0, -9_200_000_000.5, 0.0], False),
        ([0, 1, 0, 0.0, -9_200_000_000.5], False),
        ([0, -1, 0, 0.0, 0.0], False),
        ([0, 2**31, 0, 0.0, 0.0], False),
        ([0, 1, 4, 0.0, 0.0], False),
        ([0, 1, -1, 0.0, 0.0], False),
    ],
)
def test_what_no_frame_could_show_is_refused(record, fine):
    raw = msgspec.json.encode([record])
    if fine:
        assert [each.number for each in decode_group(raw)] == [record[1]]
    else:
        with pytest.raises(ValueError, match=r"Expected `(float|int)`"):
            decode_group(raw)


def test_an_exception_that_cannot_be_read_is_recorded_all_the_same():
    class Broken(Exception):
        def __str__(self) -> str:
            raise KeyError("no text")

    failure = describe(Broken())
    assert failure.type.endswith("Broken")
    assert failure.message == "(its message could not be read: KeyError)"
    assert failure.where == ""
    assert failure.retry_in is None
