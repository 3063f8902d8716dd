"""What is kept of an exception tells where in the user's code it was, and nothing of the machine; records are
written as in every release; a group is columns, which hold what its records say, and hostile ones are refused."""

from __future__ import annotations

import json
import linecache
import random
from array import array

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
    Group,
    decode_group,
    describe,
    encode_group,
    encode_records,
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
    assert WIRE_VERSION == 2
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
    assert encode_records(attempts) == raw
    assert [each.final for each in decode_group(raw)] == [False, True]
    assert encode_records(decode_group(raw)) == raw


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


# ---------------------------------------------------------------- columns

FAILURE = Failure("E", "m", "w", "t", 0.5)


def attempts_of(rng: random.Random, count: int) -> list[Attempt]:
    """Of every kind: first and later ones, good and bad, with positions and values of any size."""
    found = []
    for _ in range(count):
        position = rng.choice([0, 255, 256, 65_536, 2**32, 2**63 - 1, rng.randrange(1000)])
        number, times = rng.choice([1, 1, 1, 2, 300, 2**31 - 1]), (rng.uniform(-1e9, 9e9), rng.uniform(0, 1e3))
        if rng.random() < 0.7:
            value = msgspec.Raw(msgspec.json.encode("x" * rng.choice([0, 5, 300, 70_000])))
            found.append(Attempt(position, number, OK, *times, value))
        else:
            status = rng.choice([ERROR, TIMEOUT, CANCELLED])
            retry_in = rng.choice([None, 0.5])
            found.append(Attempt(position, number, status, *times, failure=Failure("E", "m", retry_in=retry_in)))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_group_holds_what_its_records_say(seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    attempts = attempts_of(rng, rng.choice([0, 1, 2, 50]))
    group = decode_group(encode_group(Group.of(attempts)))
    assert group == Group.of(attempts)
    assert list(group) == attempts
    assert decode_group(encode_records(attempts)) == group, "as in version 1"
    assert list(group.finals()) == [each.position for each in attempts if each.final]
    assert group.final_count == sum(each.final for each in attempts)
    assert group.to_be_tried_again() == {each.position: each for each in attempts if not each.final}
    assert group.unusual() == [at for at, each in enumerate(attempts) if each.status != OK or each.number != 1]
    assert group.is_plain is not bool(group.unusual())
    assert group[1:3] == attempts[1:3]


def test_a_plain_success_takes_few_bytes():
    attempts = [Attempt(position, 1, OK, 1.7e9, 0.5, msgspec.Raw(b"1")) for position in range(10_000)]
    assert len(encode_group(Group.of(attempts))) < 22 * len(attempts)


def test_the_format_of_a_group_is_what_was_released():
    """These bytes are in journals."""
    attempts = [
        Attempt(7, 1, ERROR, 100.5, 0.25, failure=FAILURE),
        Attempt(300, 2, OK, 101.5, 0.5, msgspec.Raw(b'{"a":1}')),
    ]
    raw = bytes.fromhex(
        "9902c40407002c01c41000000000002059400000000000605940c410000000000000d03f000000000000e03fc4020007"
        "c4077b2261223a317dc4020102c4020100810095a145a16da177a174cb3fe0000000000000"
    )
    assert encode_group(Group.of(attempts)) == raw
    assert list(decode_group(raw)) == attempts


def column(code, *numbers):
    return array(code, numbers).tobytes()


FINE = {
    "version": 2,
    "positions": column("B", 3, 5),
    "started": column("d", 1.0, 2.0),
    "ran": column("d", 0.5, 0.5),
    "ends": column("B", 1, 3),
    "values": b"122",
    "numbers": b"",
    "statuses": b"",
    "failures": {},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 3},
        {"version": 1},
        {"positions": b""},
        {"positions": b"123"},
        {"positions": b"1" * 32},
        {"positions": column("Q", 3, 2**63)},
        {"started": b"", "ran": b""},
        {"started": column("d", 1.0)},
        {"started": column("d", 1.0, float("nan"))},
        {"started": column("d", 1.0, float("-inf"))},
        {"started": column("d", -9.3e9, 1.0)},
        {"started": b"1234567"},
        {"ran": column("d", 0.5)},
        {"ran": column("d", 0.5, 9.3e9)},
        {"ran": column("d", float("inf"), float("-inf"))},
        {"ends": column("B", 1)},
        {"ends": column("B", 4, 3)},
        {"ends": column("B", 1, 2)},
        {"ends": column("B", 1, 4)},
        {"ends": b""},
        {"values": b"12"},
        {"numbers": column("B", 1)},
        {"numbers": column("I", 1, 2**31)},
        {"statuses": b"\0"},
        {"statuses": b"\0\4"},
        {"statuses": b"\0\xff"},
        {"failures": {2: FAILURE}},
        {"failures": {-1: FAILURE}},
        {"failures": {0: None}},
    ],
    ids=repr,
)
def test_columns_that_do_not_fit_together_are_refused(changed):
    assert [each.position for each in decode_group(msgspec.msgpack.encode([*FINE.values()]))] == [3, 5]
    with pytest.raises(ValueError, match=r"."):
        decode_group(msgspec.msgpack.encode([*{**FINE, **changed}.values()]))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[[-1,1,0,0.0,0.0]]", b"[[9223372036854775808,1,0,0.0,0.0]]", b"\x99"])
def test_what_is_no_group_is_refused(raw):
    with pytest.raises(ValueError, match=r"."):
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
