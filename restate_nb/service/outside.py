"""What other processes may ask the process of a session, by way of Restate: how far its jobs are, and to steer them.

Both are handlers of the session's service. Nothing is kept of such a call when it has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Literal, get_args

import msgspec
from restate import Context, InvocationRetryPolicy, Service, TerminalError
from restate.serde import BytesSerde

LIVE_HANDLER: Final = "live"
STEER_HANDLER: Final = "steer"

MOST_LISTED: Final = 200
"""How many jobs an answer has at most: those that run, and the latest others."""

_ONCE: Final = InvocationRetryPolicy(max_attempts=1, on_max_attempts="kill")  # who asks would not be there any more

_UNKEPT: Final[dict[str, Any]] = {
    "journal_retention": timedelta(0),
    "idempotency_retention": timedelta(0),  # Restate gives each call from outside a key of its own
    "invocation_retry_policy": _ONCE,
}

Verb = Literal["cancel", "pause", "resume"]
"""What a job can be told."""


class LiveError(msgspec.Struct, kw_only=True, frozen=True):
    """Failures of one kind; see `results.progress.ErrorGroup`."""

    error_type: str
    message: str
    count: int


class LiveJob(msgspec.Struct, kw_only=True, frozen=True):
    """How far a job is, as `results.progress.Progress` has it: items, and seconds."""

    name: str
    generation: int
    function: str
    status: str
    total: int
    ok: int
    failed: int
    cancelled: int
    running: int
    retries: int
    elapsed: float
    rate: float | None
    eta: float | None
    p50: float | None
    p95: float | None
    concurrency: int
    note: str
    hint: str
    errors: tuple[LiveError, ...] = ()


class Order(msgspec.Struct, kw_only=True, frozen=True):
    """Tells a job what to do.

    Attributes:
        job: its name.
        verb: what.
    """

    job: str
    verb: Verb


live_encoder: Final = msgspec.json.Encoder()
live_decoder: Final = msgspec.json.Decoder(list[LiveJob])
_order_decoder: Final = msgspec.json.Decoder(Order)


def add_outside_handlers(
    service: Service, live: Callable[[], list[LiveJob]], steer: Callable[[str, Verb], Awaitable[None]]
) -> None:
    """Let a session's service answer other processes.

    Args:
        service: the session's.
        live: how far its jobs are; at most `MOST_LISTED`.
        steer: tells the job of that name what to do. It raises a LookupError where there is none.
    """

    @service.handler(LIVE_HANDLER, output_serde=BytesSerde(), **_UNKEPT)
    async def live_(ctx: Context) -> bytes:
        return live_encoder.encode(live())

    @service.handler(
        STEER_HANDLER,
        accept="*/*",
        input_serde=BytesSerde(),
        output_serde=BytesSerde(),
        **_UNKEPT,
    )
    async def steer_(ctx: Context, body: bytes) -> bytes:
        try:
            order = _order_decoder.decode(body)
        except ValueError as error:
            verbs = ", ".join(get_args(Verb))
            raise TerminalError(f"This is no order to a job ({verbs}): {error}.", status_code=400) from error
        try:
            await steer(order.job, order.verb)
        except LookupError as error:
            raise TerminalError(str(error.args[0]), status_code=404) from error
        return b""
