"""Proves that what an earlier version left behind is read and gone on with: data directories with finished and
unfinished jobs, and every record of the wire format. `tests/data/make.py` has made them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from restate_nb.engine.record import WIRE_VERSION, Attempt, decode_group
from restate_nb.service import durable_handler, shard_wire, wire
from restate_nb.session.session import Session
from restate_nb.values.codec import decode
from tests.data import make

DATA_DIRS = sorted(make.FOLDER.glob("data-dir-v*.tar.xz"))
WIRES = sorted(make.FOLDER.glob("wire-v*.json"))


@pytest.mark.parametrize("kept", DATA_DIRS, ids=lambda path: path.name)
def test_jobs_of_an_earlier_version_are_attached_to_and_finished(kept: Path, tmp_path: Path) -> None:
    assert kept.stat().st_size < 1_000_000
    with tarfile.open(kept) as archive:
        archive.extractall(tmp_path, filter="data")
    make.CALLS.clear()
    with Session("upgrade", tmp_path / ".restate", retention=make.LONG) as session:
        jobs = make.submit(session)
        half = jobs["half"].result(60)
        mixed = jobs["mixed"].result(20)
        assert jobs["held"].status == "paused"
        assert "held 9" not in make.CALLS
        jobs["held"].resume()
        held = jobs["held"].result(20)
        steps = jobs["steps"].result(20)
        attempts = jobs["mixed"].attempts()
        assert jobs["mixed"].retry_failed("RuntimeError").result(20)["status"].tolist()[15] == "ok"
    assert half["value"].tolist() == [item * item for item in range(200)]
    assert held["value"].tolist() == [-item for item in range(10)]
    assert steps["value"].tolist() == [1, 11, 21, 31]

    assert mixed["value"].tolist()[:13] == make.VALUES
    assert mixed["status"].tolist() == ["ok"] * 13 + ["error", "ok", "error"]
    assert mixed["error_type"].dropna().tolist() == ["ValueError", "RuntimeError"]
    assert mixed["attempts"].tolist() == [1] * 13 + [2, 2, 1]
    assert attempts["error_type"].value_counts().to_dict() == {"ValueError": 2, "ConnectionError": 1, "RuntimeError": 1}
    assert (pd.Timestamp("2020-01-01", tz="UTC") < mixed["started_at"]).all()

    again = {f"half {item}" for item in range(120, 200)} | {"second 2", "second 3", "mixed 15"}
    held_again = {what for what in make.CALLS if what.startswith("held")}
    assert set(make.CALLS) - held_again == again, "nothing that was recorded runs again"
    assert 1 <= len(held_again) <= 9 and "held 0" not in held_again
    assert set(make.CALLS.values()) == {1}


@pytest.mark.parametrize("kept", WIRES, ids=lambda path: path.name)
def test_records_of_an_earlier_version_are_read(kept: Path) -> None:
    raw = make.kept_samples(kept)
    group = decode_group(raw["group"])
    assert [(each.position, each.number, each.status, each.final) for each in group] == [
        (0, 1, 0, True),
        (1, 1, 1, False),
        (1, 2, 2, True),
        (2, 1, 3, True),
    ]
    assert repr(decode(bytes(group[0].value))) == "{'a': Decimal('1.10')}"
    assert group[1].failure is not None
    assert msgspec.structs.astuple(group[1].failure) == (
        "ValueError",
        "messäge",
        "cell:3 in work",
        "Traceback ...",
        0.5,
    )
    assert (group[2].started, group[2].ran) == (1700000001.5, 1.0)

    output = shard_wire.decode_output(raw["output"])
    assert (output.groups, output.next) == ([group, group], "job/2/0/3.1")
    assert shard_wire.next_of(raw["output"]) == "job/2/0/3.1"
    assert shard_wire.next_of(raw["last output"]) is None
    last = shard_wire.decode_output(raw["last output"])
    assert (last.groups, last.next) == ([], None)

    request = shard_wire.decode_request(raw["request"])
    assert (request.job, request.generation, request.round, request.shard, request.part) == ("jöb/1", 2, 1, 3, 4)
    assert (request.function, list(request.positions)) == ("work", [5, 6])
    assert request.raws() == [b"[1]", b'{"x":"y"}']
    assert request.key() == raw["key"].decode(), "a shard would not be found again under another key"

    manifest = wire.manifest_decoder.decode(raw["manifest"])
    assert (manifest.name, manifest.function, manifest.items, manifest.options) == ("job", "work", "1tem5", "value")
    assert (manifest.total, manifest.created, manifest.generation) == (3, 1700000000.0, 2)
    assert manifest.durable and manifest.cancelled and manifest.paused
    assert manifest.rounds == [wire.Round(positions=[1, 2], code="c0de", started=1700000000.0, submitted=True)]
    assert manifest.summary == wire.Summary(ok=1, failed=1, cancelled=1, at=1700000002.0)
    new = wire.manifest_decoder.decode(raw["new manifest"])
    assert new.rounds[0].positions is None and new.summary is None and not new.durable

    asked = msgspec.json.decode(raw["open"], type=wire.Open)
    assert asked.manifest == manifest and asked.fresh
    change = msgspec.json.decode(raw["change"], type=wire.Change)
    assert (change.generation, change.add_round, change.submitted) == (2, manifest.rounds[0], 0)
    assert (change.cancelled, change.paused, change.summary) == (True, False, None)
    assert msgspec.json.decode(raw["forget"], type=wire.Forget).generation == 2

    single = durable_handler.request_decoder.decode(raw["durable request"])
    assert (single.function, single.name, single.position, single.passing) == ("job/2", "work", 7, "kwargs")
    assert bytes(single.item) == b'{"a":1}'
    assert isinstance(durable_handler.attempt_decoder.decode(raw["durable attempt"]), Attempt)
    assert decode(raw["values"]) == make.VALUES


@pytest.mark.parametrize("kept", sorted(make.FOLDER.glob("records-v*.json")), ids=lambda path: path.name)
def test_what_records_had_after_the_first_release_is_read(kept: Path) -> None:
    raw = make.kept_samples(kept)
    manifest = wire.manifest_decoder.decode(raw["manifest"])
    assert [[*each.chosen(manifest.total)] for each in manifest.rounds] == [[*range(10)], [1, 2, 9]]
    change = msgspec.json.decode(raw["change"], type=wire.Change)
    assert change.add_round == manifest.rounds[1]
    now, later = (msgspec.json.decode(raw[name], type=wire.Forget) for name in ("forget now", "forget later"))
    assert (now.generation, now.now, now.ended) == (2, True, None)
    assert (later.generation, later.now, later.ended) == (2, False, 1700000002.0)
    assert wire.unpurged_decoder.decode(raw["rest"]) == [wire.Unpurged(generation=2, service="rnb-s")]


def test_every_version_that_was_released_is_kept() -> None:
    names = {path.name for path in (*DATA_DIRS, *WIRES)}
    assert names == {f"data-dir-v{n}.tar.xz" for n in range(1, WIRE_VERSION + 1)} | {
        f"wire-v{n}.json" for n in range(1, WIRE_VERSION + 1)
    }
