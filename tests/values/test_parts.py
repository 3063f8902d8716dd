"""Proves that large values are one run of JSON and parts, that they come back from it and by reference, that JSON stays
as it was for all else, and that damaged runs and references are ValueErrors: nothing crashes."""

from __future__ import annotations

import array
import os
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values import parts as parts_module
from restate_nb.values.bulk import Rows, encode_many
from restate_nb.values.classes import Classes
from restate_nb.values.codec import MAX_VALUE_BYTES, calling, decode, decode_column, encode, has_objects
from restate_nb.values.parts import LARGE_BYTES, PART_BYTES, is_joined, join, split
from restate_nb.values.reference import Reference, encode_reference, sum_of
from restate_nb.values.what import what_of
from tests.engine.any_value import CLASSES, Maker, Point, same

SEED = int(os.environ.get("RNB_PARTS_SEED", "17"))


def keeping() -> tuple[Classes, Callable[[bytes], bytes]]:
    """Classes of values with parts, and what puts a joined value into their store, and gives the reference."""
    classes, store = Classes(CLASSES), dict[str, bytes]()
    classes.keep_in(lambda reference: store[reference.sum], parts=True)

    def put(raw: bytes) -> bytes:
        store[sum_of(raw)] = raw
        return encode_reference(Reference("folder", "segment", 0, len(raw), sum_of(raw), what_of(raw)))

    return classes, put


LARGE: dict[str, Any] = {
    "bytes": b"\0\xff" * 50_000,
    "bytearray": bytearray(b"ab" * 5_000),
    "array.array": array.array("d", range(5_000)),
    "an array": np.arange(10_000.0).reshape(100, 100),
    "in Fortran's order": np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
    "every second": np.arange(20_000)[::2],
    "times": np.arange(5_000).astype("M8[s]"),
    "a structure": np.zeros(2_000, dtype=[("a", "f8"), ("b", "S3")]),
    "text of numpy": np.array(["ab", "c"] * 2_000),
    "masked": np.ma.MaskedArray(np.arange(9_000), mask=np.arange(9_000) % 2 == 0),
    "other byte order": np.arange(9_000, dtype=">f8"),
    "no Unicode": ["\ud800", b"x" * 9_000],
    "a set": {b"a" * 9_000, b"b" * 9_000, 1},
    "two of them": [np.arange(5_000), {"a": (np.arange(5_000), "b")}],
    "in an object": Point(1, np.arange(5_000)),
    "in an array of objects": np.array([b"x" * 9_000, None], dtype=object),
    "a key": {b"k" * 9_000: 1},
    "long JSON": list(range(10_000)),
    "long text": "x" * 20_000,
    "a long tuple": ("x" * 20_000,),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_value_is_one_run_that_comes_back_in_each_way(name: str) -> None:
    value = LARGE[name]
    classes, put = keeping()
    raw = encode(value, classes)
    assert is_joined(raw) and raw[0] == 0xC1
    for each in (raw, put(raw), encode(value, Classes(CLASSES))):
        assert same(decode(each, classes), value)
        assert same(calling(lambda found: found, classes)(each), value)
        mixed = decode_column([b"1", each, b'"a"', each], classes)
        assert [mixed[0], mixed[2]] == [1, "a"] and same(mixed[1], value) and same(mixed[3], value)
        assert same(decode_column([each], classes)[0], value)
    assert same(decode(msgspec.Raw(raw), classes), value)


def test_parts_begin_where_a_leaf_is_large_and_runs_where_the_json_is() -> None:
    classes, _ = keeping()
    for make in (bytes, bytearray, lambda count: np.zeros(count, dtype=np.uint8)):
        assert not is_joined(encode(make(PART_BYTES - 1), classes))
        raw = encode([make(PART_BYTES), 1], classes)
        assert is_joined(raw) and [len(each) for each in split(raw)[1]] == [PART_BYTES]
    assert not is_joined(encode("x" * (LARGE_BYTES - 3), classes))
    raw = encode("x" * (LARGE_BYTES - 2), classes)
    assert is_joined(raw) and not split(raw)[1]


def test_without_parts_all_is_json() -> None:
    without = Classes(CLASSES)
    without.keep_in(lambda _: b"", parts=False)
    for name, value in LARGE.items():
        for classes in (None, Classes(CLASSES), without):
            if classes is None and name == "in an object":
                continue
            raw = encode(value, classes)
            assert not is_joined(raw)
            msgspec.json.decode(raw)


@pytest.mark.parametrize("seed", range(3))
def test_random_small_values_are_written_the_same_with_parts_as_without(seed: int) -> None:
    maker, (classes, put) = Maker(seed), keeping()
    joined = 0
    for _ in range(400):
        value = maker.value()
        try:
            inline = encode(value, Classes(CLASSES))
        except NotEncodable:
            with pytest.raises(NotEncodable):
                encode(value, classes)
            continue
        raw = encode(value, classes)
        assert is_joined(raw) or raw == inline or b'"set"' in raw
        run = join(inline, ())
        assert same(decode(run, classes), value) and same(decode(put(run), classes), value)
        joined += is_joined(raw)
    print(joined)


def test_a_joined_value_is_bounded_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    classes, _ = keeping()
    data = b"x" * (MAX_VALUE_BYTES + 1)
    assert is_joined(encode(data, classes)) and is_joined(encode("x" * (MAX_VALUE_BYTES + 1), classes))
    with pytest.raises(NotEncodable, match="MB can be kept"):
        encode(data)
    monkeypatch.setattr(parts_module, "MAX_JOINED_BYTES", 100_000_000)
    for value in ([data] * 6, ["x" * 20_000_000] * 6):
        with pytest.raises(NotEncodable, match=r"takes 0\.1 GB, and 0\.1 GB can be kept"):
            encode(value, classes)


def test_an_array_is_copied_once_when_it_is_written_and_once_when_it_is_read() -> None:
    classes, _ = keeping()
    value = {"a": np.ones(4_000_000), "b": "x"}  # 32 MB
    tracemalloc.start()
    try:
        raw = encode(value, classes)
        assert tracemalloc.get_traced_memory()[1] < 34_000_000
        tracemalloc.reset_peak()
        back = decode(raw, classes)
        assert tracemalloc.get_traced_memory()[1] < 66_000_000
    finally:
        tracemalloc.stop()
    assert back["a"].flags.writeable and np.array_equal(back["a"], value["a"])


def test_many_at_once_are_left_to_be_written_one_by_one_where_one_is_large() -> None:
    classes, _ = keeping()
    plain = Classes(CLASSES)
    for large in (b"x" * PART_BYTES, "x" * LARGE_BYTES, [np.arange(9_000)]):
        assert encode_many([1, large, 2], classes) is None
        run = encode_many([1, large, 2], plain)
        assert run is not None and run.raws() == [encode(each, plain) for each in (1, large, 2)]
        assert Rows(["a", "b"], classes).encode([[1, 2], ["x", large]]) is None
        assert Rows(["a", "b"], plain).encode([[1, 2], ["x", large]]) is not None
    many = encode_many([1, "a", b"x"] * 5_000, classes)
    assert many is not None and many.raws() == [encode(each) for each in (1, "a", b"x")] * 5_000


def test_where_no_store_is_open_a_reference_says_which_one_is_needed() -> None:
    _, put = keeping()
    reference = put(join(encode(np.arange(3)), ()))
    for classes in (None, Classes(), Classes(plain=True)):
        for way in (decode, lambda raw, known: decode_column([b"1", raw], known)):
            with pytest.raises(NotReadable, match=r"lies in a store \(ndarray int64, 3, \d+ bytes\).*--store"):
                way(reference, classes)
    told = decode_column([b"1", reference], None, lambda error, raw: type(error).__name__)
    assert told == [1, "NotReadable"]


def test_what_a_store_cannot_give_fails_its_own_row_alone() -> None:
    classes, put = keeping()

    def load(_: Reference) -> bytes:
        raise NotReadable("it is gone")

    reference = put(join(b"1", ()))
    classes.load = load
    assert decode_column([b"1", reference, b"2"], classes, lambda error, _: str(error)) == [1, "it is gone", 2]
    with pytest.raises(NotReadable, match="it is gone"):
        decode(reference, classes)


def test_plain_data_become_what_is_annotated_however_large_they_are() -> None:
    classes, put = keeping()

    def rebuild(value: Any) -> Any:
        return ("rebuilt", value)

    for value in ({"x": 1}, {"x": "y" * LARGE_BYTES}, {"x": b"y" * PART_BYTES}):
        raw = encode(value, classes)
        for each in (raw, put(raw if is_joined(raw) else join(raw, ()))):
            assert decode(each, classes, rebuild) == ("rebuilt", value)
            assert decode_column([each, b"1"], classes, rebuild=rebuild) == [("rebuilt", value), ("rebuilt", 1)]
    for held in (Point(1), Point("x" * LARGE_BYTES), [Point(b"x" * PART_BYTES)]):
        raw = encode(held, classes)
        assert has_objects(raw)
        for each in (raw, put(raw if is_joined(raw) else join(raw, ()))):
            assert same(decode(each, classes, rebuild), held)
            assert same(decode_column([each, each], classes, rebuild=rebuild), [held, held])


# ---------------------------------------------------------------- what is wrong


def samples() -> list[bytes]:
    classes, _ = keeping()
    frame = pd.DataFrame({"a": range(900), "t": ["x"] * 900, "c": pd.Categorical(["u", "v", "w"] * 300)})
    values = [
        [np.arange(2_000), b"x" * 5_000],
        frame,
        frame.set_index("t"),
        pl.DataFrame(frame),
        pa.table({"l": [[1, 2]] * 900}),
        {"a": [1] * 9_000},
    ]
    return [encode(each, classes) for each in values]


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """The same, with a few bytes changed, cut out, doubled or put elsewhere."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 3_000))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.choice([1, 8, 64, 10_000])]
            case 3:
                data[at:at] = data[at : at + rng.choice([1, 8, 64])]
            case 4:
                data[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\0\0\0\0\0\0\0\x80"])
        if not data:
            break
    return bytes(data)


def read_or_refused(count: int) -> None:
    print(f"RNB_PARTS_SEED={SEED}")
    rng, (classes, _), runs = random.Random(SEED), keeping(), samples()
    store = {"raw": b""}
    classes.load = lambda _: store["raw"]
    reference = encode_reference(Reference("a", "b", 0, 1, "0" * 32))
    read = 0
    for number in range(count):
        store["raw"] = case = damaged(rng, rng.choice(runs))
        try:
            decode(case if number % 2 else reference, classes)
            read += 1
        except ValueError:
            pass
        except BaseException as error:
            error.add_note(f"RNB_PARTS_SEED={SEED}, case {number}: {case[:3_000]!r}")
            raise
        what_of(case)
    assert 0 < read < count


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_run_is_read_or_refused() -> None:
    read_or_refused(2_000)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_run_is_read_or_refused_for_long() -> None:
    read_or_refused(100_000)


@pytest.mark.parametrize(
    "document",
    [
        b'{"$rnb":"part","v":0}',
        b'[{"$rnb":"part","v":0}]',
        b'{"$rnb":"bytes","v":{"$rnb":"part","v":1}}',
        b'{"$rnb":"bytes","v":{"$rnb":"part","v":-1}}',
        b'{"$rnb":"bytes","v":{"$rnb":"part","v":true}}',
        b'{"$rnb":"bytes","v":{"$rnb":"part"}}',
        b'{"$rnb":"list","v":{"$rnb":"part","v":0}}',
        b'{"$rnb":"str","v":{"$rnb":"part","v":0}}',
        b'{"$rnb":["bytes"],"v":{"$rnb":"part","v":0}}',
        b'{"$rnb":"stored","v":{"folder":"a","segment":"b","at":0,"size":1,"sum":"00000000000000000000000000000000"}}',
        b"",
        b"{",
    ],
)
def test_a_part_or_a_reference_where_none_may_be_is_a_value_error(document: bytes) -> None:
    classes, _ = keeping()
    classes.load = lambda _: join(document, [b"x" * 9_000])
    reference = encode_reference(Reference("a", "b", 0, 1, "0" * 32))
    for raw in (join(document, [b"x" * 9_000]), reference):
        with pytest.raises(ValueError):
            decode(raw, classes)
    if document.startswith(b'{"$rnb":"stored"'):
        with pytest.raises(ValueError):
            decode(b"[%b]" % document, classes)
    elif document:
        with pytest.raises(ValueError):
            decode(document, classes)


def test_what_a_value_is_is_told_of_anything() -> None:
    classes, put = keeping()
    words = {
        "5": 5,
        "null": None,
        "text, 5 bytes": "abc",
        "text, 20 kB": "x" * 20_000,
        "list, 3 items": [1, 2, 3],
        "list, 10,000 items": list(range(10_000)),
        "dict, 1 item": {"a": b"x" * 9_000},
        "tuple, 2 items": (1, 2),
        "bytes, 100 kB": b"x" * 100_000,
        "ndarray float32, 64 x 32": np.zeros((64, 32), dtype="f4"),
        "masked ndarray int64, 9000": LARGE["masked"],
        "Point": Point(1, 2),
        "list, 2 MB": ["x" * 2_000_000],
    }
    for said, value in words.items():
        raw = encode(value, classes)
        assert what_of(raw) == said
        assert what_of(encode(value, Classes(CLASSES))) == said
        if is_joined(raw):
            assert what_of(put(raw)) == said
    rng = random.Random(3)
    for _ in range(300):
        assert isinstance(what_of(rng.randbytes(rng.randrange(60))), str)
