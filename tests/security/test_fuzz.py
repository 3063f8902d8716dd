"""Proves that whatever comes from outside is read or refused with the documented errors: no crash, no hang, no heap of
memory. 50,000 cases; `RNB_FUZZ_CASES`, `RNB_FUZZ_SEED` change how many and which, `pytest -m soak` runs a million."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import os
import random
import re
import resource
import signal
import socket
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from PIL import Image
from restate import TerminalError
from restate.exceptions import RetryableError

from restate_nb.backends import introspection, steps
from restate_nb.backends.deployed_handler import DeployedHandler
from restate_nb.backends.job_store import read_manifests
from restate_nb.backends.recorded_items import read_items_back
from restate_nb.backpressure import LONGEST, pushback, retry_after
from restate_nb.engine import process_frames
from restate_nb.engine.function import Function
from restate_nb.engine.record import Failure, decode_group
from restate_nb.errors import InvalidInput, InvocationFailed, NotReadable, ServerError
from restate_nb.patterns import ServiceClient
from restate_nb.policy import Limit, Retry, RunPolicy
from restate_nb.results.ledger import Ledger
from restate_nb.server import datadir, settings
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin
from restate_nb.server.identity import identity_key
from restate_nb.server.ingress import Ingress
from restate_nb.server.lifecycle import start_server
from restate_nb.server.orphans import end_orphaned_server
from restate_nb.server.supervisor import RECORD
from restate_nb.server.supervisor_client import Connection, Gone
from restate_nb.service import job_object
from restate_nb.service.durable_handler import DurableFunctions, add_durable_handler
from restate_nb.service.run_spec import read_run_spec, run_spec_of
from restate_nb.service.shard_handler import read_request
from restate_nb.service.shard_wire import decode_output
from restate_nb.service.wire import apply_change, decode_received, decoding, manifest_decoder
from restate_nb.values import codec
from restate_nb.values.classes import Classes
from restate_nb.values.structure import rebuilder
from tests.data.make import kept_samples
from tests.security.mutations import EXTREMES, ODD_BYTES, hostile, mutated

SEED = int(os.environ.get("RNB_FUZZ_SEED", "20261123"))
CASES = int(os.environ.get("RNB_FUZZ_CASES", "50000"))
AT_ONCE = 50  # cases of one fragment, which hypothesis draws
LONGEST_CASES = 20  # seconds for these, or it hangs
MEMORY = 400 << 20  # bytes that a target may add to the peak of this process

WIRE, WIRE_2 = (kept_samples(Path(f"tests/data/wire-v{version}.json")) for version in (1, 2))
MANIFEST = manifest_decoder.decode(WIRE["new manifest"])

Reader = Callable[[bytes], object]


def fuzzed(name: str, samples: list[bytes], read: Reader, allowed: tuple[type[BaseException], ...], cases: int) -> None:
    """Read mutated samples; any error that is not allowed, a hang or a heap of memory fails, with the case."""
    seen = Counter[str]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for sample in samples:
        read(sample)

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=max(1, cases // AT_ONCE),
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        fragment=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(EXTREMES),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
        number=st.integers(0, 2**32),
    )
    def some(fragment: Any, number: int) -> None:
        rng = random.Random(number)
        for _ in range(AT_ONCE):
            case = mutated(rng, samples, fragment)
            try:
                read(case)
                seen["read"] += 1
            except allowed as error:
                seen[type(error).__name__] += 1
            except BaseException as error:
                shown = case if len(case) < 2_000 else case[:1_000] + b" ... " + case[-200:]
                error.add_note(f"{name}, RNB_FUZZ_SEED={SEED}, fragment {fragment!r:.300}, number {number}: {shown!r}")
                raise

    with no_hang(LONGEST_CASES * max(1, cases // 2_000)):
        some()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{name}: seed {SEED}, {sum(seen.values()):,} cases, {grown >> 10} MiB: {dict(seen)}")
    assert grown * 1024 < MEMORY, f"{grown} KiB"
    assert sum(seen.values()) >= cases * 0.9
    assert len(seen) > 1 or not allowed, "some documents are read and others are refused, or nothing was tried"


@contextmanager
def no_hang(seconds: float) -> Iterator[None]:
    def tell(*_: object) -> None:
        raise AssertionError(f"it hangs: it was not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def at_once(awaitable: Any) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        awaitable.send(None)
    except StopIteration as done:
        return done.value
    awaitable.close()
    raise AssertionError("it waits")


# ---------------------------------------------------------------- values


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: float = 0.5


@dataclasses.dataclass
class Order:
    name: str
    when: dt.datetime
    price: decimal.Decimal
    lines: list[Point]
    colour: Colour | None = None
    weights: np.ndarray[Any, Any] | None = None


class Model(pydantic.BaseModel):
    a: int
    b: list[str] = []


VALUES = [
    {"a": [1, 2.5, None, True], "b": "text", "$rnb": 5},
    [(1, 2), {3, 4}, frozenset("ab"), b"bytes", 2**70, float("inf"), 1 + 2j, "\ud800"],
    [
        dt.datetime.now(dt.UTC),
        dt.date(2026, 1, 2),
        dt.time(3),
        dt.timedelta(1),
        uuid.UUID(int=5),
        decimal.Decimal("1.10"),
    ],
    [pd.Timestamp("2026-01-01", tz="Europe/Paris"), pd.Timedelta("1h"), pd.NaT, pd.Period("2026-01", "M"), Path("/a")],
    [np.arange(6).reshape(2, 3), np.datetime64("2026-01-01"), np.array(["a", None], dtype=object), pd.Interval(0, 1)],
    Order("o", dt.datetime(2026, 1, 1), decimal.Decimal("1.5"), [Point(1)], Colour.RED, np.arange(3)),
    Model(a=1, b=["x"]),
]
ENCODED = [codec.encode(value) for value in VALUES]
CLASSES = Classes((Order, Model, Colour, Point))
FRAME = pd.DataFrame(
    {
        "a": [1, 2],
        "t": ["x", None],
        "c": pd.Categorical(["u", "v"]),
        "z": pd.to_datetime([0, 1], utc=True),
        "o": [1, "a"],
    },
    index=pd.MultiIndex.from_tuples([("k", 1), ("l", 2)], names=["i", None]),
)
OTHER_FRAME = pd.DataFrame(
    {
        "p": pd.period_range("2026", periods=2, freq="M"),
        "i": pd.interval_range(0, 2),
        "s": pd.arrays.SparseArray([0, 1]),
    },
    index=pd.date_range("2026", periods=2, freq="D", tz="Europe/Paris"),
)
TABLES = [
    *(FRAME, OTHER_FRAME, FRAME["t"], OTHER_FRAME.index, FRAME["a"].array, pd.DataFrame(index=range(3))),
    *(
        pa.Table.from_pandas(FRAME[["a", "t"]]),
        pa.array([[1], None]),
        pl.DataFrame({"a": [1], "": ["x"]}),
        pl.Series([1]),
    ),
    *(Image.new("RGB", (3, 4)), Image.new("P", (3, 4))),
]
WITH_PARTS = Classes((Order, Model, Colour, Point))
WITH_PARTS.keep_in(None, parts=True)
RUNS = [
    codec.encode(value, WITH_PARTS)
    for value in ({"a": b"x" * 5_000, "b": [np.arange(1_000)]}, pd.concat([FRAME] * 300), [VALUES] * 30)
]
REBUILDS = [rebuilder(kind) for kind in (Order, Model, Colour, list[Point], dict[str, np.float64] | None, pd.Timestamp)]


def rebuilt(raw: bytes) -> None:
    value = codec.decode(raw, CLASSES)
    for rebuild in REBUILDS:
        assert rebuild is not None
        with suppress(ValueError, TypeError):
            rebuild(value)


# ---------------------------------------------------------------- what Restate keeps of jobs


def output(raw: bytes) -> None:
    ledger = Ledger(3)
    with decoding("an output"):
        groups = decode_output(raw).groups
    for group in groups:
        ledger.apply(0, group, 1.0)
    for position in range(3):
        ledger.last(position)
    ledger.percentiles(), ledger.error_groups(), ledger.rate(2.0)


def request(raw: bytes) -> None:
    there = read_request(raw)
    assert len(there.without({5})) <= len(there.raws())


SERVICE = job_object.shard_service("fuzz", None, retention=dt.timedelta(1))  # type: ignore[arg-type]
add_durable_handler(SERVICE, DurableFunctions())
OBJECT = job_object.jobs_object("fuzz", retention=dt.timedelta(1))


def durable(raw: bytes) -> None:
    with pytest.raises(RetryableError, match="run the cell that defines"):  # it is read, and the function is not known
        at_once(SERVICE.handlers["durable"].fn(None, raw))  # type: ignore[arg-type]


def asked(handler: str) -> Reader:
    """What the SDK makes of a request to the object that keeps manifests."""
    read = OBJECT.handlers[handler].handler_io.input_serde

    def change(raw: bytes) -> None:
        if not raw:
            raise ValueError("restate-server refuses a request without a body, see test_who_may_come_in.py")
        there = read.deserialize(raw)
        if handler == "change":
            apply_change(manifest_decoder.decode(WIRE["manifest"]), there)

    return change


class Rows:
    """Stands for the admin interface where only the rows matter that it gives."""

    def __init__(self, raw: bytes) -> None:
        self.rows = msgspec.json.decode(raw, type=list[dict[str, Any]])  # as `Admin.query` has checked them

    async def query(self, _: str, texts: Collection[str] = ()) -> list[dict[str, Any]]:
        if not all(isinstance(row.get(column), str) for row in self.rows for column in texts):
            raise ServerError("a row has no text there")
        return self.rows


def of_rows(read: Callable[[Any], Any]) -> Reader:
    def reader(raw: bytes) -> None:
        try:
            rows: Any = Rows(raw)
        except (ValueError, RecursionError):
            raise ServerError("not even rows") from None
        at_once(read(rows))

    return reader


def entry(kind: str, **details: Any) -> str:
    return json.dumps({"Command": {kind: details}})


REQUEST = WIRE["request"].replace(b"[5,6]", b"[0,1,2]").replace(b"[[1],", b'[[1],"b",')
KEPT = [
    json.dumps(
        [
            {"service_name": "rnb-s-jobs", "service_key": "job", "size": 9, "value_utf8": WIRE["manifest"].decode()},
            {"service_name": "o"},
        ]
    ).encode(),
]


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message."""
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


INPUT = base64.b64encode(field(1, b"header") + field(14, field(1, REQUEST))).decode()
INPUTS = [json.dumps([{"id": "inv_1", "key": "job/2/0/0", "raw_length": len(INPUT), "raw": INPUT}]).encode()]
JOURNAL = [
    json.dumps(
        [
            {"idempotency_key": "j/1/0/5", "status": "completed", "completed_at": "2026-01-01T00:00:09Z", "index": 0}
            | {"name": "", "entry_lite_json": entry(kind, completion_id=1), "appended_at": "2026-01-01T00:00:01Z"}
            for kind in ("Input", "Run", "SetState", "Call")
        ]
        + [
            {"idempotency_key": "j/1/0/5", "status": "completed", "index": 5, "appended_at": "2026-01-01T00:00:02Z"}
            | {"entry_lite_json": json.dumps({"Notification": {"id": {"CompletionId": 1}, "result": "Success"}})}
        ]
    ).encode()
]
FOUND = [
    json.dumps(
        [
            {"id": "inv_1", "idempotency_key": "j/1/0/5", "status": "completed", "completion_result": "success"}
            | {"retry_count": 1, "created_at": "2026-01-01T00:00:01Z", "running_at": None, "completed_at": None}
        ]
    ).encode()
]


JOB = introspection.JobInvocations("Shop", "j", 1)


def invocations(rows: Any) -> Any:
    target = DeployedHandler(ServiceClient[int, int]("Shop", "double"))

    async def look() -> None:
        introspection.columns_of(9, await JOB.of_handler(rows, target.handler, target.keys), {})

    return look()


def journals(rows: Any) -> Any:
    return steps.read_steps(rows, JOB, pd.RangeIndex(9), list)


RECIPES = [
    run_spec_of(Function(math.hypot, "args"), RunPolicy(5, Retry(), 3.0, (5, 1.0), Limit("l", 3), 0.5), 1.0),
    run_spec_of(Function(math.sqrt, "value", executor="thread"), RunPolicy((1, 9), Retry(retry_on=(OSError,)))),
]


def recipe(raw: bytes) -> None:
    read_run_spec(raw.decode(errors="replace"), durable=False)


# ---------------------------------------------------------------- answers of web services, frames, files


class Slow(Exception):
    def __init__(self, raw: bytes) -> None:
        text = raw.decode("latin-1")
        self.headers: Mapping[str, str] = {"Retry-After": text, "Date": text[::-1]}
        with suppress(ValueError, RecursionError):
            self.retry_after = json.loads(text)
        self.status = getattr(self, "retry_after", 429)


def slow_down(raw: bytes) -> None:
    error = Slow(raw)
    for seconds in (retry_after(error), pushback(error) or 0.0, Retry(jitter=0).delay_after(1, error)):
        assert isinstance(seconds, (int, float)) and 0 <= seconds <= LONGEST
        dt.timedelta(seconds=seconds)


def frames(raw: bytes) -> None:
    reader = process_frames.Reader()
    reader.feed(raw)
    for kind, content in reader:
        if kind == process_frames.OUTCOMES:
            process_frames.read_outcomes(content)
        else:
            process_frames.read_number(content)


OUTCOMES = [
    process_frames.encode_outcome(process_frames.Outcome(5, 1, 7, 7, 1.7e9, 0.25, b'{"a":1}')),
    process_frames.encode_outcome(
        process_frames.Outcome(6, 2, 9, 7, 1.0, 0.2, b"", 1, Failure("E", "m", "w", "t", 0.5), 3.5)
    ),
]
FRAMES = [
    process_frames.outcomes_frame(3, OUTCOMES) + process_frames.number_frame(process_frames.RETURNED, 2),
    process_frames.number_frame(process_frames.GROWN, 2**63) + process_frames.outcomes_frame(0, OUTCOMES[:1]),
    process_frames.framed(process_frames.READY)[:-8] + struct.pack("<Q", 2**20) + b"x",
]


def files(folder: Path) -> Reader:
    data = folder / "data"
    data.mkdir()

    def read(raw: bytes) -> None:
        for name in (RECORD, settings.PORTS_FILE):
            (data / name).write_bytes(raw)
        assert datadir.holder(data)
        end_orphaned_server(data)
        ports = settings.loopback_ports(data)
        assert set(ports) == {"ingress", "admin", "fabric"} and all(0 <= port < 65_536 for port in ports.values())

    return read


def keys(folder: Path) -> Reader:
    def read(raw: bytes) -> None:
        (folder / "identity.pem").write_bytes(raw)
        assert identity_key(folder).startswith("publickeyv1_")

    return read


def pem(folder: Path) -> list[bytes]:
    identity_key(folder)
    return [(folder / "identity.pem").read_bytes()]


def supervisor_says(raw: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours) as connection:
        theirs.sendall(raw[:60_000] + b"\n")
        theirs.shutdown(socket.SHUT_WR)
        assert isinstance(connection.ask("status"), dict)


STATUS = [b'{"number": 1, "supervisor": 5, "pid": null, "shared": {"listen": "unix"}}\n{"number": 1}']

TARGETS: dict[str, tuple[list[bytes], Reader, tuple[type[BaseException], ...]]] = {
    "values": (ENCODED, lambda raw: codec.decode(raw, CLASSES), (ValueError, NotReadable)),
    "tables and images": (
        [codec.encode(value) for value in TABLES],
        lambda raw: codec.decode(raw, CLASSES),
        (ValueError, NotReadable),
    ),
    "values with parts": (RUNS, lambda raw: codec.decode(raw, WITH_PARTS), (ValueError, NotReadable)),
    "rebuilt values": (ENCODED, rebuilt, (ValueError, NotReadable)),
    "groups and attempts": ([WIRE["group"]], decode_group, (ValueError,)),
    "groups of columns": ([WIRE_2["group"]], decode_group, (ValueError,)),
    "outputs of shards": ([WIRE["output"], WIRE["last output"]], output, (ServerError,)),
    "outputs of groups": ([WIRE_2["output"], WIRE_2["last output"]], output, (ServerError,)),
    "requests of shards": ([WIRE["request"]], request, (TerminalError,)),
    "requests of columns": ([WIRE_2["request"]], request, (TerminalError,)),
    "durable requests": ([WIRE["durable request"]], durable, (TerminalError,)),
    "manifests": (
        [WIRE["manifest"], WIRE["new manifest"]],
        lambda raw: decode_received(manifest_decoder, raw, "it"),
        (ServerError,),
    ),
    "changes": ([WIRE["change"]], asked("change"), (ValueError, RecursionError)),
    "opens": ([WIRE["open"]], asked("open"), (ValueError, RecursionError)),
    "records of jobs": (KEPT, of_rows(read_manifests), (ServerError,)),
    "items of jobs": (INPUTS, of_rows(lambda rows: read_items_back(rows, "s", MANIFEST)), (ServerError, InvalidInput)),
    "invocations": (FOUND, of_rows(invocations), (ServerError,)),
    "journals": (JOURNAL, of_rows(journals), (ServerError,)),
    "recipes": ([each.encode() for each in RECIPES if each], recipe, (InvalidInput,)),
    "Retry-After": (
        [b"5", b"1.5", b"Wed, 21 Oct 2026 07:28:00 GMT", b"Wed, 21 Oct 2026 07:28:00 -9900"],
        slow_down,
        (),
    ),
    "frames of worker processes": (FRAMES, frames, (ValueError, RecursionError)),
    "answers of the supervisor": (STATUS, supervisor_says, (Gone,)),
}


# ---------------------------------------------------------------- the tests

HERE = CASES - CASES // 5  # the rest is test_fuzz_answers.py's
SHARE = HERE // (len(TARGETS) + 4)  # files, keys, answers and what others say to the supervisor come besides


def of_target(name: str, cases: int) -> None:
    samples, read, allowed = TARGETS[name]
    fuzzed(name, samples, read, allowed, cases)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pandas', of times that are numbers
@pytest.mark.parametrize("name", TARGETS)
def test_a_bad_document_is_read_or_refused(name: str) -> None:
    of_target(name, SHARE)


def test_damaged_files_of_the_data_directory_are_made_anew(tmp_path: Path) -> None:
    samples = [b'{"pid": 0, "supervisor": 1, "host": "h"}', b'{"ingress": 1, "admin": 2, "fabric": 3}']
    fuzzed("files", samples, files(tmp_path), (), SHARE // 4)


def test_a_damaged_key_is_refused_with_what_to_do(tmp_path: Path) -> None:
    fuzzed("keys", pem(tmp_path), keys(tmp_path), (ServerError,), SHARE // 2)


def test_a_key_that_asks_for_a_password_is_refused_with_what_to_do(tmp_path: Path) -> None:
    secret = serialization.BestAvailableEncryption(b"password")
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret
    )
    with pytest.raises(ServerError, match="Delete that file"):
        keys(tmp_path)(pem)


def test_the_supervisor_outlives_whatever_is_written_to_its_socket(tmp_path: Path) -> None:
    with start_server(tmp_path / ".restate") as handle:
        supervisor = handle.status().supervisor_pid
        path = str(tmp_path / ".restate" / "supervisor.sock")

        def say(raw: bytes) -> None:
            with socket.socket(socket.AF_UNIX) as client, suppress(OSError):  # it hangs up on what it cannot read
                client.settimeout(5)
                client.connect(path)
                client.sendall(raw + b"\n")

        fuzzed("requests to the supervisor", [b'{"op": "status", "number": 1}'], say, (), SHARE)
        assert handle.status().supervisor_pid == supervisor and handle.status().holds == 1


# ---------------------------------------------------------------- answers over HTTP

ANSWERS = {
    "ingress": b'{"services": ["a"], "invocationId": "inv_1", "status": "Accepted", "message": "m"}',
    "deployments": b'{"deployments": [{"id": "d", "created_at": "", "uri": "http://h", "services": [{"name": "s"}]}]}',
    "rows": b'{"rows": [{"id": "inv_1"}], "version": "1.7.12", "id": "dp"}',
}
HEADERS = [
    *(
        b"Content-Type: application/json",
        b"Content-Type: \xff",
        b"Content-Encoding: gzip",
        b"Content-Encoding: deflate",
    ),
    *(b"x-restate-error-source: invocation", b"x-restate-id: " + b"i" * 9_000, b"Location: http://localhost:1/"),
    *(
        b"Transfer-Encoding: chunked",
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999",
    ),
    *(
        b"Set-Cookie: a=b; Path=/; Expires=x",
        b"Retry-After: 1e9",
        b"Connection: close",
        b": x",
        b"a" * 70_000,
        b"\0: b",
    ),
]
STATUSES = [b"200 OK"] * 4 + [
    b"%d X" % code for code in (100, 201, 204, 302, 400, 404, 409, 470, 500, 503, 599, 99, 1000)
]


def answer_of(rng: random.Random) -> bytes:
    """An answer of a server that is out to do harm, or broken."""
    body = rng.choice(list(ANSWERS.values()))
    if rng.random() < 0.8:
        body = mutated(rng, list(ANSWERS.values()), hostile(rng, None))
    if rng.random() < 0.5:  # nothing is wrong with HTTP
        source = rng.choice(
            [b"", b"", b"x-restate-error-source: ingress\r\n", b"x-restate-error-source: invocation\r\n"]
        )
        head = b"HTTP/1.1 " + rng.choice(STATUSES[:-2]) + b"\r\nConnection: close\r\n" + source
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    headers = [b"Connection: close", *rng.sample(HEADERS, rng.choice([0, 0, 0, 1, 1, 2, 3]))]
    if rng.random() < 0.7:
        headers.append(b"Content-Length: %d" % max(0, len(body) + rng.choice([0, 0, 0, 0, -1, 1, 50_000])))
    head = b"HTTP/1.1 " + rng.choice(STATUSES) + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n"
    if rng.random() < 0.2:
        at = rng.randrange(len(head))
        head = head[:at] + rng.choice([b"", rng.randbytes(3), *ODD_BYTES]) + head[at + rng.randrange(3) :]
    return head + body


def requests(ingress: Ingress, admin: Admin) -> list[Callable[[], Any]]:
    """Everything that is asked of a server."""
    return [
        lambda: ingress.services(patience=0),
        lambda: ingress.send("s", "h", b"1", patience=0),
        lambda: ingress.call("s", "h", b"1", key="k", idempotency_key="i", patience=0),
        lambda: ingress.attach("s", "h", "i", patience=0),
        lambda: ingress.attach_id("inv_1", patience=0),
        admin.version,
        lambda: admin.point(["s"], "http://h:1"),
        lambda: admin.query("select 1"),
        lambda: admin.invocation("inv_1"),
        lambda: admin.resume_stuck("dp"),
        lambda: admin.cancel("inv_1"),
    ]


async def hostile_answers(count: int) -> Counter[str]:
    rng = random.Random(SEED)
    seen = Counter[str]()
    answer = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            if re.search(rb"content-length: [1-9]", head.lower()):
                await reader.read(65_536)  # else closing resets the connection, and the answer is lost
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with Ingress(address) as ingress, Admin(address, patience=0) as admin:
            asking = requests(ingress, admin)
            for number in range(count):
                answer = answer_of(rng)
                which = rng.randrange(len(asking))
                try:
                    async with asyncio.timeout(10):
                        await asking[which]()
                    seen["read"] += 1
                except (ServerError, InvocationFailed) as error:
                    assert len(str(error)) < 20_000
                    seen[type(error).__name__] += 1
                except BaseException as error:
                    error.add_note(f"RNB_FUZZ_SEED={SEED}, case {number}, request {which}: {answer[:1500]!r}")
                    raise
    return seen


def http_fuzzed(cases: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_hang(60 * max(1, cases // 2_000)):
        seen = asyncio.run(hostile_answers(cases))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"answers: seed {SEED}, {sum(seen.values()):,} cases, {grown >> 10} MiB: {dict(seen)}")
    assert grown * 1024 < MEMORY
    assert {"read", "BadAnswer", "Rejected", "Unreachable"} <= seen.keys()


def test_any_answer_over_http_is_read_or_refused() -> None:
    http_fuzzed(HERE - SHARE * (len(TARGETS) + 1) - SHARE // 2 - SHARE // 4)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_a_bad_document_is_read_or_refused_for_long(name: str) -> None:
    of_target(name, 50_000)


@pytest.mark.soak
def test_any_answer_over_http_is_read_or_refused_for_long() -> None:
    http_fuzzed(50_000)
