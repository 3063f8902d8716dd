"""Proves that a job's items are read back from Restate in portions, whatever their number and size, and never mixed
with those of other jobs."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.backends import recorded_items
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.server.admin import Admin
from restate_nb.session.session import Session


async def durable(ctx: Any, item: str) -> int:
    return len(item)


@pytest.mark.parametrize("fn", [len, durable])
def test_a_job_that_is_had_by_its_name_has_all_items_and_outcomes(
    fn: Callable[..., Any], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions of few bytes and few invocations, and neighbours whose names begin alike."""
    monkeypatch.setattr("restate_nb.backends.local.MAX_SHARD_BYTES", 4_000)
    monkeypatch.setattr(recorded_items, "BYTES_AT_ONCE", 10_000)
    monkeypatch.setattr(recorded_items, "IDS_AT_ONCE", 7)
    rng = random.Random(11)
    items = ["x" * rng.randint(0, 2_000) for _ in range(60)]
    with Session("back", data_dir) as session, Session("beside", data_dir) as beside:
        for name, of in (("n", items), ("n/1", items[::-1]), ("n/1/0", ["other"])):
            rnb.map(fn, of, name=name, session=session, show=False).result(30)
        rnb.map(fn, ["another"], name="n", session=beside, show=False).result(30)
    with Session("back", data_dir) as session:
        for name, of in (("n", items), ("n/1", items[::-1])):
            job = session.job(name)
            assert list(job.result(30)["item"]) == of
            assert job.values() == [len(item) for item in of]


def test_thirty_megabytes_of_items_are_read_back(data_dir: Path) -> None:
    """More than the 10 MB at which one query for all of them failed."""
    items = [f"{number:05d}" + "x" * 10_000 for number in range(3_000)]
    with Session("large", data_dir) as session:
        rnb.map(len, items, name="large", session=session, show=False).result(60)
    with Session("large", data_dir) as session:
        job = session.job("large")
        assert len(job) == len(items)
        assert job.result(60)["item"].iloc[[0, 1_500, 2_999]].tolist() == [items[0], items[1_500], items[2_999]]


def test_a_job_of_which_a_part_is_missing_says_so(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restate_nb.backends.local.MAX_SHARD_ITEMS", 2)
    with Session("part", data_dir) as session:
        rnb.map(abs, range(6), name="part", session=session, show=False).result(20)

        async def purge() -> None:
            async with Admin(session.server.admin) as admin:
                (row,) = await admin.query("select id from sys_invocation where idempotency_key = 'part/1/0/1'")
                await admin.purge(row["id"])

        asyncio.run(purge())
    with (
        Session("part", data_dir) as session,
        pytest.raises(InvalidInput, match=r"Of 6 items .* the first 2: .*its cell"),
    ):
        session.job("part")


def test_an_input_is_found_in_the_message_that_brings_it_and_nothing_else_is_taken_for_one() -> None:
    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode().rstrip("=")

    header = b"\x0a\x05\x0a\x01k\x12\x00"
    value = b"\x72\x05\x0a\x03abc"
    for raw, found in (
        (value, b"abc"),
        (header + value + b"\x62\x01n", b"abc"),
        (b"\x08\x96\x01" + b"\x0d1234" + b"\x0912345678" + value, b"abc"),
        (header, b""),
    ):
        assert recorded_items.input_of(text(raw), "inv_1") == found
    rng = random.Random(3)
    for raw in [b"\x72\x7fabc", b"\xff" * 20, b"\x0b", *(rng.randbytes(rng.randint(1, 40)) for _ in range(500))]:
        try:
            recorded_items.input_of(text(raw), "inv_1")
        except ServerError as error:
            assert "The journal of the invocation inv_1 cannot be read" in str(error)
    with pytest.raises(ServerError, match="cannot be read"):
        recorded_items.input_of("%%", "inv_1")
