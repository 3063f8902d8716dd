"""Proves that requests and outputs of shards come through in both versions, that each is answered in its own, and that
what does not fit together is refused."""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from restate import TerminalError

from restate_nb.engine.record import ERROR, OK, Attempt, Failure, Group, encode_group, encode_records
from restate_nb.service import shard_wire
from restate_nb.service.shard_handler import Shard, read_request
from restate_nb.service.shard_wire import ShardRequest, WorkerName, decode_output, decode_request, encode_request

WORKER = WorkerName(host="h", process=7, code="c0de")


def request(positions: range | list[int], version: int = 2, **more: Any) -> ShardRequest:
    items, ends = shard_wire.run_of([b'"%d"' % (each * each) for each in positions])
    known: dict[str, Any] = {"job": "j", "generation": 2, "round": 1, "shard": 3, "part": 4, "function": "work"}
    at = shard_wire.positions_of(positions)
    return ShardRequest(**{**known, **more}, version=version, positions=at, items=items, ends=ends)


def attempts(positions: list[int]) -> list[Attempt]:
    return [Attempt(each, 1, OK, 1.0, 0.5, msgspec.Raw(b"%d" % each)) for each in positions]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_a_request_comes_through_with_all_that_it_has(version: int, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    chosen = rng.sample(range(rng.choice([100, 2**20, 2**50])), rng.choice([0, 1, 60]))
    for positions in (range(0), range(5), range(2**40, 2**40 + 300), chosen):
        sent = request(positions, version, recipe=rng.choice([None, "spec"]))
        got = decode_request(encode_request(sent))
        assert (got.version, got.job, got.generation, got.round, got.shard) == (version, "j", 2, 1, 3)
        assert (got.part, got.function, got.recipe, got.key()) == (4, "work", sent.recipe, "j/2/1/3.4")
        assert list(got.positions) == list(positions)
        assert got.raws() == sent.raws() == [b'"%d"' % (each * each) for each in positions]


def test_positions_in_a_row_take_no_room() -> None:
    assert len(encode_request(request(range(10**6, 10**6 + 10_000)))) < 10_000 * (16 + 4) + 200


@pytest.mark.parametrize("version", [1, 2])
def test_the_next_part_has_what_has_no_outcome(version: int) -> None:
    rest = decode_request(encode_request(request(range(10, 16), version).next_part({10, 13, 15})))
    assert (rest.version, rest.part, list(rest.positions)) == (version, 5, [11, 12, 14])
    assert rest.without({12}) == {11: b'"121"', 14: b'"196"'}


FINE: dict[str, Any] = {
    "version": 2, "job": "j", "generation": 1, "round": 0, "shard": 0, "function": "f",
    "count": 2, "positions": b"\3\5", "ends": b"\1\3", "items": b"122",
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 3}, {"version": "2"}, {"round": 65_536}, {"shard": -1}, {"count": 3}, {"count": 2**63},
        {"count": 2**62, "ends": b"", "items": b""}, {"count": 1}, {"count": -1}, {"first": 2**63 - 1}, {"first": -1},
        {"positions": b"\3"}, {"positions": b"\3\3"}, {"positions": array("Q", [1, 2**63]).tobytes()},
        {"positions": b""}, {"ends": b"\1\2"}, {"ends": b"\3\1"}, {"ends": b"\4\3"}, {"items": b"1"}, {"items": 5},
        {"positions": [3, 5]},
    ],
    ids=repr,
)  # fmt: skip
def test_a_request_whose_columns_do_not_fit_together_is_refused(changed: dict[str, Any]) -> None:
    assert list(read_request(msgspec.msgpack.encode(FINE)).positions) == [3, 5]
    with pytest.raises(TerminalError, match="no shard that restate_nb can read"):
        read_request(msgspec.msgpack.encode({**FINE, **changed}))


def test_what_a_newer_version_wrote_is_said_to_be_that() -> None:
    newer = "written by a newer restate_nb"
    group = encode_group(Group.of(attempts([1])))
    output = shard_wire.encode_output([group], None)
    for read, raw in (
        (decode_request, msgspec.msgpack.encode({**FINE, "version": 3})),
        (decode_request, encode_request(request([1], 1)).replace(b"{", b'{"version":2,', 1)),
        (decode_output, output.replace(b"version\2", b"version\3")),
        (decode_output, shard_wire.encode_output_1([], None).replace(b":1", b":2", 1)),
        (decode_output, output.replace(group, group.replace(b"\x99\2", b"\x99\3"))),
    ):
        with pytest.raises(ValueError, match=newer):
            read(raw)


@pytest.mark.parametrize("worker", [None, WORKER])
@pytest.mark.parametrize("version", [1, 2])
def test_a_shard_is_answered_in_its_own_version_whatever_its_journal_has(
    version: int, worker: WorkerName | None
) -> None:
    published: list[tuple[int, Group]] = []
    run: Any = SimpleNamespace(publish=lambda round_, group: published.append((round_, group)))
    part = Shard(encode_request(request(range(6), version)), lambda _: run)
    failed = [Attempt(2, 1, ERROR, 1.0, 0.5, failure=Failure("E", "m", retry_in=0.5)), *attempts([2])]
    groups = [Group.of(each) for each in (attempts([0, 1]), failed, attempts([3]))]
    raws = [encode_records(groups[0]), encode_group(groups[1]), encode_group(groups[2])]
    for raw, group in zip(raws, groups, strict=True):
        assert part.on_group(raw, group)
    assert published == [(1, group) for group in groups]
    raw = part.output("next", None if worker is None else msgspec.json.encode(worker))
    assert raw.startswith(b"{") is (version == 1)
    output = decode_output(raw)
    assert (output.version, output.groups, output.next, output.worker) == (version, groups, "next", worker)
    assert shard_wire.next_of(raw) == "next"
    rest = part.rest()
    assert rest is not None
    assert (rest.version, rest.part, list(rest.positions)) == (version, 5, [4, 5])
