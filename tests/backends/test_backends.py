"""Proves that each kind of job has its backend, that records tell the kind, and how items are cut into shards."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restate_nb.backends import BACKENDS
from restate_nb.backends.introspection import JobInvocations
from restate_nb.backends.shards import Shards
from restate_nb.results.spool import Spool
from restate_nb.service.wire import JobKind, Manifest, Round, service_of


def manifest(**fields: Any) -> Manifest:
    rounds = [Round(positions=None, code="", started=0.0)]
    return Manifest(name="j", function="Shop/get", items="", options="", total=9, created=0.0, rounds=rounds, **fields)


def test_each_kind_of_job_has_a_backend_of_its_own() -> None:
    assert set(BACKENDS) == set(get_args(JobKind))
    assert len(set(BACKENDS.values())) == len(BACKENDS)


@pytest.mark.parametrize(
    ("fields", "kind", "service"),
    [
        ({}, "local", "rnb-s"),
        ({"durable": True}, "durable", "rnb-s"),
        ({"deployed": True}, "deployed", "Shop"),
        ({"lanes": 3}, "workers", "rnb-s-lanes"),
    ],
)
def test_a_record_tells_the_kind_of_its_job_and_the_service_that_runs_it(
    fields: dict[str, Any], kind: str, service: str
) -> None:
    job = manifest(**fields)
    assert job.kind == kind
    assert service_of("s", job) == service == JobInvocations.of("s", job).service


@pytest.mark.parametrize(
    ("most_items", "most_bytes", "shards"),
    [
        (9, 99, [[0, 1, 2, 3, 4]]),
        (2, 99, [[0, 1], [2, 3], [4]]),
        (9, 6, [[0, 1], [2], [3, 4]]),
        (1, 1, [[0], [1], [2], [3], [4]]),
    ],
)
def test_a_shard_has_so_many_items_and_bytes_at_most_and_one_item_at_least(
    most_items: int, most_bytes: int, shards: list[list[int]]
) -> None:
    items = Spool()
    for length in (1, 1, 9, 3, 3):
        items.append(b"x" * length)
    cut = Shards(None, "", manifest(), items).cut  # type: ignore[arg-type]
    assert [list(each) for each in cut(range(5), most_items, most_bytes)] == shards
    assert cut([], most_items, most_bytes) == []


@given(
    st.lists(st.integers(0, 12), max_size=40),
    st.integers(1, 9),
    st.integers(1, 25),
    st.sampled_from([slice(None), slice(3, None), slice(None, None, 2)]),
)
def test_shards_are_cut_before_the_item_that_would_be_too_much(
    lengths: list[int], most_items: int, most_bytes: int, which: slice
) -> None:
    shards = Shards(None, "", manifest(), Spool(b"x" * length for length in lengths))  # type: ignore[arg-type]
    positions = list(range(len(lengths))[which])
    expected: list[list[int]] = []
    for position in positions:
        size = sum(lengths[each] for each in expected[-1]) + lengths[position] if expected else 0
        if not expected or len(expected[-1]) == most_items or size > most_bytes:
            expected.append([])
        expected[-1].append(position)
    assert shards.cut(positions, most_items, most_bytes) == expected
    assert [list(each) for each in shards.cut(range(len(lengths))[which], most_items, most_bytes)] == expected
    assert [shards.size(each) for each in expected] == [sum(lengths[at] for at in each) for each in expected]
