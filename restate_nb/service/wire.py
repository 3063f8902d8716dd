"""What travels between a session and Restate, but for shards (`shard_wire.py`): the manifest of a job, and changes of
it. All JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from restate_nb.errors import ServerError
from restate_nb.service import positions as packed

T = TypeVar("T")

JSON_VERSION: Final = 1
"""Of manifests, and of the requests of durable functions: `record.WIRE_VERSION` is that of shards and outcomes."""

SHARD_HANDLER: Final = "shard"
OWNER_KEY: Final = "owner of the store"
"""The key of a jobs object that keeps what the names of the session's folders in a store begin with."""
UNPURGED: Final = "rest"
"""The state of a jobs object that lists what is still to be purged."""
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""Of a job's manifest: half of what restate-server moves in one message."""


def items_service(session: str) -> str:
    """The Restate service that runs a session's items."""
    return f"rnb-{session}"


def jobs_service(session: str) -> str:
    """The Restate virtual object that keeps a session's manifests, one key a job."""
    return f"rnb-{session}-jobs"


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


def workers_of(session: str) -> str:
    """Stands for the session in the names of the services that its workers serve."""
    return f"{session}-workers"


def lanes_service(workers: str) -> str:
    """The Restate virtual object that runs shards on workers, one key a lane of a job.

    A key runs one shard at a time. So as many shards of a job run at once as it has lanes, on however many workers.
    """
    return f"rnb-{workers}-lanes"


def job_key(job: str, generation: int) -> str:
    """What the idempotency keys of a job's invocations begin with.

    Printable ASCII without `%`, so that it is the same in an HTTP header, where all else is percent-encoded, and when a
    handler sends on.
    """
    return f"{quote(job, safe='/ ').replace('%', '=')}/{generation}"


def shard_key(job: str, generation: int, round_: int, shard: int, part: int = 0) -> str:
    """The idempotency key of a shard's invocation."""
    return f"{job_key(job, generation)}/{round_}/{shard}" + (f".{part}" if part else "")


class Round(msgspec.Struct, kw_only=True):
    """One run over some or all of a job's items.

    Attributes:
        positions: which items, as `positions.pack` writes them, or as numbers in records of before; None for all.
        code: the digest of the function's code when it began.
        started: seconds since 1970 (UTC).
        submitted: whether every shard is known to Restate.
    """

    positions: list[_Count] | str | None
    code: str
    started: float
    submitted: bool = False

    @classmethod
    def over(cls, positions: Iterable[int], total: int, *, code: str, started: float) -> Round:
        """A round over some of `total` items."""
        return cls(positions=packed.pack(positions, total), code=code, started=started)

    def chosen(self, total: int) -> list[int] | None:
        """Which of `total` items; None for all."""
        return packed.unpack(self.positions, total) if isinstance(self.positions, str) else self.positions


class Made(msgspec.Struct, kw_only=True):
    """What the function was that ran items, from some time on.

    Attributes:
        since: seconds since 1970 (UTC).
        code: as in `Round`.
        parts: what counted, by name: a letter for its kind, and digits of its digest. See `identity.Part.mark`.
        unseen: what could not be seen, and why, by name.
    """

    since: float
    code: str
    parts: dict[str, str]
    unseen: dict[str, str] = {}


class Summary(msgspec.Struct, kw_only=True):
    """How a job ended: counts of items.

    Attributes:
        at: when, in seconds since 1970 (UTC).
        busy: for how many seconds its rounds went on; None in records of before there was this.
    """

    ok: _Count
    failed: _Count
    cancelled: _Count
    at: float
    busy: float | None = None


class Unkept(msgspec.Struct):
    """Why a job was paused by itself: what its function returned cannot be kept.

    Attributes:
        code: the digest of the function.
        position: of which item.
        why: in words.
    """

    code: str
    position: _Count
    why: str


JobKind = Literal["local", "durable", "deployed", "workers"]
"""How the items of a job are run: plain functions in the session's process; functions that take a Restate context, each
item an invocation; invocations of a handler that is deployed in Restate; or shards that workers run."""


class Manifest(msgspec.Struct, kw_only=True):
    """What is kept of a job besides its shards.

    Attributes:
        items: the digest of the encoded items, in order.
        options: what else makes it this job: how items are passed.
        batch: how many items begin together; None when they need not wait for others.
        durable: whether the function takes a Restate context, so that each item is an invocation of its own.
        deployed: whether it is a handler that is deployed in Restate, so that each item is an invocation of that.
        total: how many items.
        generation: see `ShardRequest`.
        cancelled: `cancel()` was called.
        paused: `pause()` was called, or the job has paused itself.
        unkept: why it did. While it is not paused, values of that function that cannot be kept do not pause it.
        summary: how it ended, when it did.
        recipe: how its items are run, where that can be told without its cell; written and read by the session.
        lanes: over how many lanes its shards are divided on workers; None for a job that no workers run.
        base: for a job without a name of its own, the key under which those are kept that differ in data only.
        made: what the function was, as it changed; the first is that which began the job. Empty in records of before
            there was this.
        bound: the marks of what was bound to its functions, which counts like items; None where that is not known.
        varies: the names of parts that the function itself changes: they do not count.
        mixed: the names of parts that somebody else changed while it ran.
        opened_by: a number of whoever asked to open it first; empty in records of before there was this.
        folder: of the job in the store; empty where it has none.
        placed: where in that folder it says where its items lie, as a reference; empty where none lies there.
        pickled: whether values that have no other form are pickled.
    """

    version: int = JSON_VERSION
    name: str
    function: str
    items: str
    options: str
    total: _Count
    created: float
    rounds: Annotated[list[Round], msgspec.Meta(min_length=1)]
    durable: bool = False
    deployed: bool = False
    batch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    generation: int = 1
    cancelled: bool = False
    paused: bool = False
    unkept: Unkept | None = None
    summary: Summary | None = None
    recipe: str | None = None
    lanes: int | None = None
    base: str = ""
    made: list[Made] = []
    bound: dict[str, str] | None = None
    varies: list[str] = []
    mixed: list[str] = []
    opened_by: str = ""
    folder: str = ""
    placed: str = ""
    pickled: bool = False

    def __post_init__(self) -> None:
        for each in self.rounds:
            _check_positions(each, self.total)

    @property
    def kind(self) -> JobKind:
        """How its items are run."""
        if self.lanes is not None:
            return "workers"
        if self.deployed:
            return "deployed"
        return "durable" if self.durable else "local"

    @property
    def unfinished(self) -> bool:
        """Whether it has items to run."""
        return self.summary is None and not self.cancelled


def _check_positions(round_: Round, total: int) -> None:
    if isinstance(round_.positions, str):
        packed.check(round_.positions, total)
    elif round_.positions and max(round_.positions) >= total:
        raise ValueError(f"a round has the position {max(round_.positions)}, and there are {total} items")


class Open(msgspec.Struct, kw_only=True):
    """Asks for the job of this name: the one that is there, or else (or if `fresh`) this one."""

    manifest: Manifest
    fresh: bool = False


class Change(msgspec.Struct, kw_only=True):
    """A change to the manifest of one generation; what is None stays.

    Attributes:
        add_round: a further round; the job is open again.
        submitted: the number of a round of which every shard is submitted.
        cancelled: sets the flag.
        paused: sets the flag.
        unkept: why it is paused by itself.
        summary: the job has ended.
        recipe: its items are run in another way from now on; empty for one that only its cell can tell.
        made: what the function is from now on.
        pickled: values that have no other form are pickled from now on.
        varies: further parts that vary.
        mixed: further parts that were changed while it ran.
    """

    generation: int
    add_round: Round | None = None
    submitted: int | None = None
    cancelled: bool | None = None
    paused: bool | None = None
    unkept: Unkept | None = None
    summary: Summary | None = None
    recipe: str | None = None
    made: Made | None = None
    pickled: bool = False
    varies: list[str] = []
    mixed: list[str] = []


_MOST_MADE: Final = 30
"""How many changes of a function are kept. Of more, those after the first are forgotten: what they ran is then said to
be older than it is, and never newer."""


def apply_change(manifest: Manifest, change: Change) -> Manifest:
    """The manifest with the change made.

    Raises:
        ValueError: it is about items or rounds that there are not.
    """
    if change.add_round is not None:
        _check_positions(change.add_round, manifest.total)
        manifest.rounds.append(change.add_round)
        manifest.cancelled = False
        manifest.summary = None
    if change.submitted is not None:
        if not 0 <= change.submitted < len(manifest.rounds):
            raise ValueError(f"there is no round {change.submitted}")
        manifest.rounds[change.submitted].submitted = True
    if change.cancelled is not None:
        manifest.cancelled = change.cancelled
    if change.paused is not None:
        manifest.paused = change.paused
    if change.unkept is not None:
        manifest.unkept = change.unkept
    if change.summary is not None:
        manifest.summary = change.summary
    if change.recipe is not None:
        manifest.recipe = change.recipe or None
    if change.made is not None:
        manifest.made.append(change.made)
        del manifest.made[1 : len(manifest.made) - _MOST_MADE + 1]
    manifest.pickled |= change.pickled
    manifest.varies = [*dict.fromkeys((*manifest.varies, *change.varies))]
    manifest.mixed = [*dict.fromkeys((*manifest.mixed, *change.mixed))]
    return manifest


class Forget(msgspec.Struct, kw_only=True):
    """Drop the manifest, if it is still of this generation.

    Attributes:
        now: whatever the job does. Else it is dropped if it has ended, and stays if it was opened again.
        ended: when the end was that it is kept no longer after, as the summary has it; None in what versions of before
            sent when the job began.
    """

    generation: int
    now: bool = False
    ended: float | None = None


class Unpurged(msgspec.Struct, kw_only=True, frozen=True):
    """A job that was dropped, of which invocations and what it has in the store are still to be purged.

    Attributes:
        generation: of the job.
        service: which runs its invocations.
        folder: see `Manifest`.
    """

    generation: int
    service: str
    folder: str = ""


def service_of(session: str, manifest: Manifest) -> str:
    """The Restate service that has a job's invocations."""
    if manifest.kind == "deployed":
        return manifest.function.rpartition("/")[0]
    return lanes_service(session) if manifest.kind == "workers" else items_service(session)


manifest_decoder: Final = msgspec.json.Decoder(Manifest)
unpurged_decoder: Final = msgspec.json.Decoder(list[Unpurged])
encode: Final = msgspec.json.Encoder().encode


def decode_received(decoder: msgspec.json.Decoder[T], body: bytes | str, what: str) -> T:
    """Decode a document that Restate gave: whoever can write there, or answers in its place, may have made it.

    Args:
        decoder: of its type.
        body: the document.
        what: it is, for the message.

    Raises:
        ServerError: it is none.
    """
    with decoding(what):
        return decoder.decode(body)


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Where something is read that Restate gave; see `decode_received`.

    Args:
        what: it is, for the message.

    Raises:
        ServerError: it is none.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ServerError(
            f"What Restate gives as {what} is none that restate_nb can read: {str(error)[:200]}. It was written by "
            "another program or by a newer restate_nb, or something else answers in its place."
        ) from None
