"""Makes what tests/durability/test_upgrades.py reads: `python -m tests.data`, in a checkout of the version to be kept.

Files named after the wire format: `data-dir-v1.tar.xz`, the data directory of a stopped server with finished and
unfinished jobs in it; `wire-v1.json`, a sample of every kind of record as that version writes it, since version 2 as
base64; and `records-v1.json`, what records had besides after the first release. They are kept for as long as a release
reads that format; make them anew only for a new format, under a new name.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import tarfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from restate import Context

import restate_nb as rnb
from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT, WIRE_VERSION, Attempt, Failure, Group, encode_group
from restate_nb.service import shard_wire, wire
from restate_nb.service.durable_handler import DurableRequest
from restate_nb.session.session import Session
from restate_nb.values.codec import encode as encode_value

FOLDER = Path(__file__).parent
DATA_DIR = FOLDER / f"data-dir-v{WIRE_VERSION}.tar.xz"
WIRE = FOLDER / f"wire-v{WIRE_VERSION}.json"
RECORDS = FOLDER / f"records-v{WIRE_VERSION}.json"

CALLS = Counter[str]()
LONG = timedelta(days=365 * 100)  # the outcomes in the file must outlive it

VALUES: list[Any] = [
    *(1, 2.5, "text", None, True, [1, [2]], {"a": {"b": 1}}),
    *(datetime(2024, 2, 29, 12, tzinfo=UTC), Decimal("1.10"), b"bytes", (1, 2), {3, 4}, float("inf")),
]


def making() -> bool:
    """Whether the jobs are to be cut off. A variable of the module would count as a part of their functions."""
    return "RNB_MAKES_SAMPLES" in os.environ


def value_of(item: int) -> Any:
    CALLS[f"mixed {item}"] += 1
    if item == 13:
        raise ValueError("thirteen")
    if item == 14 and CALLS["mixed 14"] == 1:
        raise ConnectionError("come again")
    if item == 15 and making():
        raise RuntimeError("to be mended")
    return VALUES[item % len(VALUES)]


async def half(item: int) -> int:
    CALLS[f"half {item}"] += 1
    if making() and item >= 120:
        await asyncio.sleep(3600)
    return item * item


def held(item: int) -> int:
    CALLS[f"held {item}"] += 1
    if making() and item:
        time.sleep(0.5)
    return -item


async def steps(ctx: Context, item: int) -> int:
    async def second() -> int:
        CALLS[f"second {item}"] += 1
        if making() and item >= 2:
            await asyncio.sleep(3600)
        return one + 1

    def first() -> int:
        CALLS[f"first {item}"] += 1
        return item * 10

    one = await ctx.run_typed("first", first)
    return await ctx.run_typed("second", second)


def submit(session: Session) -> dict[str, rnb.Job[Any]]:
    """The jobs; the same cells in the notebook that makes them and in the one that goes on with them."""
    retry = rnb.Retry(max_attempts=2, initial_interval=0.01, retry_on=ConnectionError)
    return {
        "mixed": rnb.map(value_of, range(16), name="mixed", retry=retry, session=session, show=False),
        "half": rnb.map(half, range(200), name="half", concurrency=20, session=session, show=False),
        "held": rnb.map(held, range(10), name="held", concurrency=1, session=session, show=False),
        "steps": rnb.map(steps, range(4), name="steps", session=session, show=False),
    }


def make_data_dir(folder: Path) -> None:
    """Run the jobs to where they are cut off, stop, and pack the directory."""
    with Session("upgrade", folder / ".restate", retention=LONG) as session:
        jobs = submit(session)
        while jobs["held"].counts["ok"] < 1:
            time.sleep(0.01)
        jobs["held"].pause()
        assert jobs["mixed"].result(20)["status"].value_counts()["error"] == 2
        jobs["mixed"].retry_failed("ValueError").result(20)  # a second round, which fails again
        while jobs["half"].counts["ok"] < 120 or CALLS["second 3"] < 1 or jobs["held"].counts["running"]:
            time.sleep(0.01)
        time.sleep(0.5)
    machine_made = {"restate-server.log", "LOG", "identity.pem", "server.json"}  # paths; a private key
    with tarfile.open(DATA_DIR, "w:xz", preset=9) as archive:
        for path in sorted((folder / ".restate").rglob("*")):
            if path.is_file() and path.name not in machine_made:
                archive.add(path, path.relative_to(folder), filter=_anonymous)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def samples() -> dict[str, bytes]:
    """One of every kind of record, with every field set in one of them."""
    failure = Failure("ValueError", "mess\u00e4ge", "cell:3 in work", "Traceback ...", 0.5)
    last = Failure("ItemTimeout", "too long")
    attempts = [
        Attempt(0, 1, OK, 1700000000.5, 0.25, msgspec.Raw(encode_value({"a": Decimal("1.10")}))),
        Attempt(1, 1, ERROR, 1700000000.5, 0.25, failure=failure),
        Attempt(1, 2, TIMEOUT, 1700000001.5, 1.0, failure=last),
        Attempt(2, 1, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", "The job was cancelled.")),
    ]
    group = encode_group(Group.of(attempts))
    items, ends = shard_wire.run_of([b"[1]", b'{"x":"y"}'])
    request = shard_wire.ShardRequest(
        job="j\u00f6b/1", generation=2, round=1, shard=3, part=4, function="work",
        positions=shard_wire.positions_of([5, 6]), items=items, ends=ends,
    )  # fmt: skip
    round_ = wire.Round(positions=[1, 2], code="c0de", started=1700000000.0, submitted=True)
    manifest = wire.Manifest(
        name="job", function="work", items="1tem5", options="value", total=3, created=1700000000.0, rounds=[round_],
        durable=True, generation=2, cancelled=True, paused=True,
        summary=wire.Summary(ok=1, failed=1, cancelled=1, at=1700000002.0),
    )  # fmt: skip
    first = wire.Round(positions=None, code="c0de", started=1700000000.0)
    return {
        "group": group,
        "output": shard_wire.encode_output([group, group], "job/2/0/3.1"),
        "last output": shard_wire.encode_output([], None),
        "request": shard_wire.encode_request(request),
        "key": request.key().encode(),
        "manifest": wire.encode(manifest),
        "new manifest": wire.encode(msgspec.structs.replace(manifest, rounds=[first], summary=None, durable=False)),
        "open": wire.encode(wire.Open(manifest=manifest, fresh=True)),
        "change": wire.encode(wire.Change(generation=2, add_round=round_, submitted=0, cancelled=True, paused=False)),
        "forget": wire.encode(wire.Forget(generation=2)),
        "durable request": wire.encode(
            DurableRequest(function="job/2", name="work", position=7, passing="kwargs", item=msgspec.Raw(b'{"a":1}'))
        ),
        "durable attempt": wire.encode(attempts[0]),
        "values": encode_value(VALUES),
    }


def kept_samples(path: Path) -> dict[str, bytes]:
    """What a file of samples has."""
    texts: dict[str, str] = json.loads(path.read_text())
    is_text = path.stem.endswith("-v1")
    return {name: text.encode() if is_text else base64.b64decode(text) for name, text in texts.items()}


def more_samples() -> dict[str, bytes]:
    """What came after the first release of the format: positions in one text, and how jobs are dropped."""
    round_ = wire.Round.over([1, 2, 9], 10, code="c0de", started=1700000000.0)
    manifest = wire.Manifest(
        name="job", function="work", items="1tem5", options="value", total=10, created=1700000000.0,
        rounds=[wire.Round(positions=None, code="c0de", started=1700000000.0), round_],
    )  # fmt: skip
    return {
        "manifest": wire.encode(manifest),
        "change": wire.encode(wire.Change(generation=2, add_round=round_)),
        "forget now": wire.encode(wire.Forget(generation=2, now=True)),
        "forget later": wire.encode(wire.Forget(generation=2, ended=1700000002.0)),
        "rest": wire.encode([wire.Unpurged(generation=2, service="rnb-s")]),
    }
