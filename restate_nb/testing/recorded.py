"""Journals of real invocations, and handlers replayed over them: does a changed handler still go on with these?

A journal is read from a server (or a file of before), and given to the SDK's own native core, as restate-server gives
it when it resumes an invocation. So what is found here is what would happen there.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from restate import SdkInternalBaseException
from restate.exceptions import TerminalError

from restate_nb.errors import InvalidInput, JournalMismatch
from restate_nb.patterns.sdk import (
    SUSPENDED,
    DoProgressExecuteRun,
    ServerInvocationContext,
    VMException,
    native_core,
    running_context,
)
from restate_nb.patterns.typed_values import use_typed_values
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.testing.callees import handler_of
from restate_nb.testing.journal import Entry, side_by_side

_START: Final = 0x0000
_COMMANDS: Final = {
    "Input": (0x0400, ""),
    "Output": (0x0401, ""),
    "GetLazyState": (0x0402, "get"),
    "SetState": (0x0403, "set"),
    "ClearState": (0x0404, "clear"),
    "ClearAllState": (0x0405, "clear_all"),
    "GetLazyStateKeys": (0x0406, "keys"),
    "GetEagerState": (0x0407, "get"),
    "GetEagerStateKeys": (0x0408, "keys"),
    "GetPromise": (0x0409, "promise"),
    "PeekPromise": (0x040A, "peek_promise"),
    "CompletePromise": (0x040B, "complete_promise"),
    "Sleep": (0x040C, "sleep"),
    "Call": (0x040D, "call"),
    "OneWayCall": (0x040E, "send"),
    "SendSignal": (0x0410, "signal"),
    "Run": (0x0411, "run"),
    "AttachInvocation": (0x0412, "attach"),
    "GetInvocationOutput": (0x0413, "output"),
    "CompleteAwakeable": (0x0414, "complete_awakeable"),
}
_NOTIFICATIONS: Final = {
    **{name: 0x8000 | code for name, (code, _) in _COMMANDS.items()},
    "CallInvocationId": 0x840E,
    "Signal": 0xFBFF,
}
_METHODS: Final = {
    "sys_run": "run",
    "sys_sleep": "sleep",
    "sys_call": "call",
    "sys_send": "send",
    "sys_get_state": "get",
    "sys_get_state_keys": "keys",
    "sys_set_state": "set",
    "sys_clear_state": "clear",
    "sys_clear_all_state": "clear_all",
    "sys_get_promise": "promise",
    "sys_peek_promise": "peek_promise",
    "sys_complete_promise_success": "complete_promise",
    "sys_complete_promise_failure": "complete_promise",
    "sys_resolve_awakeable": "complete_awakeable",
    "sys_reject_awakeable": "complete_awakeable",
    "sys_cancel": "signal",
    "sys_resolve_signal": "signal",
    "sys_reject_signal": "signal",
    "attach_invocation": "attach",
}
_NAMED: Final = ("run", "get", "set", "clear", "promise", "peek_promise", "complete_promise", "call", "send")
_COLUMNS: Final = "index, entry_type, name, raw, entry_json"


@dataclass(frozen=True, slots=True)
class RecordedJournal:
    """The journal of a real invocation.

    Args:
        target: "Service/handler", as it was called.
        key: of the object or workflow; empty for a service.
        invocation_id: of the invocation.
        rows: of `sys_journal`, in order: `entry_type`, `name`, `raw` (hexadecimal) and `entry_json`.

    Example:
        >>> journal = RecordedJournal("Orders/place", "", "inv_1", ({"entry_type": "Command: Run", "name": "pay"},))
        >>> [str(entry) for entry in journal.entries]
        ['run pay']
    """

    target: str
    key: str
    invocation_id: str
    rows: tuple[dict[str, Any], ...]

    @property
    def entries(self) -> list[Entry]:
        """The steps that the handler took."""
        return [entry for row in self.rows if (entry := _entry(row)) is not None]

    def save(self, path: Path | str) -> None:
        """Write it to a file, as JSON."""
        content = {"target": self.target, "key": self.key, "invocation_id": self.invocation_id, "rows": self.rows}
        Path(path).write_text(json.dumps(content, indent=1), "utf-8")

    @classmethod
    def load(cls, path: Path | str) -> RecordedJournal:
        """Read it from such a file.

        Raises:
            InvalidInput: it is none.
        """
        try:
            content = json.loads(Path(path).read_text("utf-8"))
            return cls(content["target"], content["key"], content["invocation_id"], tuple(content["rows"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path} is no journal that RecordedJournal.save has written: {error!r}.") from error


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay.

    Args:
        steps: how many steps the handler took again.
        finished: whether it came to its end; else it waits for what is not recorded yet.
        value: what it returned, as it would travel.
        error: the TerminalError that it ended in.
    """

    steps: int
    finished: bool
    value: Any = None
    error: TerminalError | None = None


async def read_journal(admin: Admin | str, invocation_id: str) -> RecordedJournal:
    """Read the journal of an invocation from a server: one that runs, or one that the server still keeps.

    Args:
        admin: the address of the server's admin API, such as "http://localhost:9070".
        invocation_id: which one.

    Raises:
        InvalidInput: the server has no such journal.
        restate_nb.errors.ServerError: it does not answer.
    """
    if not _is_id(invocation_id):
        raise InvalidInput(f"{invocation_id!r} is no id of an invocation, which begin with inv_1.")
    if isinstance(admin, str):
        asked = Admin(Address(admin.rstrip("/")))
        try:
            return await read_journal(asked, invocation_id)
        finally:
            await asked.close()
    which = sql_literal(invocation_id)
    found = await admin.query(
        f"select target_service_name, target_handler_name, target_service_key from sys_invocation where id = {which}"
    )
    rows = await admin.query(f"select {_COLUMNS} from sys_journal where id = {which} order by index")
    if not found or not rows:
        raise InvalidInput(f"The server has no journal of {invocation_id}: it is not there, or no longer kept.")
    target = f"{found[0]['target_service_name']}/{found[0]['target_handler_name']}"
    kept = tuple({name: row.get(name) for name in ("entry_type", "name", "raw", "entry_json")} for row in rows)
    return RecordedJournal(target, found[0].get("target_service_key") or "", invocation_id, kept)


async def replay(handler: Callable[..., Awaitable[Any]], journal: RecordedJournal | Path | str) -> Replayed:
    """Run a handler over the journal of a real invocation, as a server would that goes on with it.

    Nothing is done: what is recorded is taken from the journal, and the replay ends where the recording does. In CI it
    shows whether invocations that are under way can go on with changed code. Only `ctx.random()` and `ctx.uuid()` give
    other numbers than they did: the journal does not have their seed.

    Args:
        handler: the handler function, as it is now.
        journal: the journal, or the file that it was saved to.

    Raises:
        JournalMismatch: the handler does something else than the journal says; both are shown side by side.
        InvalidInput: it is no handler, or the file is no journal.
        Exception: what the handler raised.

    Example:
        >>> async def test_orders_under_way_can_go_on() -> None:
        ...     for path in Path("journals").glob("*.json"):
        ...         await replay(place_order, path)
    """
    recorded = journal if isinstance(journal, RecordedJournal) else RecordedJournal.load(journal)
    found = handler_of(handler)
    if found is None:
        raise InvalidInput(f"{handler!r} is no Restate handler: decorate it with @service.handler().")
    vm = native_core([("content-type", "application/vnd.restate.invocation.v5")])
    vm.notify_input(_stream(recorded))
    vm.notify_input_closed()  # type: ignore[no-untyped-call]
    if not vm.is_ready_to_execute():
        raise InvalidInput("The journal is not complete: it lacks entries in between.")
    invocation = vm.sys_input()
    issued: list[Entry] = []
    _watch(vm, issued)
    context = ServerInvocationContext(vm, found, invocation, {}, _nowhere, _Closed())  # type: ignore[arg-type]
    use_typed_values(context)
    try:
        with running_context(context):
            return await _outcome(found, context, invocation.input_buffer, recorded, issued)
    finally:
        context.on_attempt_finished()  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)


async def _outcome(
    handler: Any, context: Any, parameter: bytes, recorded: RecordedJournal, issued: list[Entry]
) -> Replayed:
    io, entries = handler.handler_io, recorded.entries
    try:
        if handler.arity == 1:
            value = await handler.fn(context)
        else:
            value = await handler.fn(context, io.input_serde.deserialize(parameter))
        result = Replayed(len(issued), True, io.output_serde.deserialize(bytes(io.output_serde.serialize(value))))
    except TerminalError as error:
        result = Replayed(len(issued), True, error=error)
    except SdkInternalBaseException as error:
        if "570" in repr(error.__cause__) or len(issued) < len(entries):
            raise _mismatch(entries, issued, error.__cause__ or error) from error
        return Replayed(len(entries), False)
    except (VMException, JournalMismatch) as error:
        raise _mismatch(entries, issued, error) from error
    if len(issued) < len(entries) - _made_by_the_core(recorded):
        raise _mismatch(entries, issued, "it ended before")
    return result


def _made_by_the_core(recorded: RecordedJournal) -> int:
    """How many signals there are, some of which the core itself sends when an invocation is cancelled."""
    return sum(row["entry_type"] == "Command: SendSignal" for row in recorded.rows)


def _mismatch(entries: list[Entry], issued: list[Entry], why: object) -> JournalMismatch:
    return JournalMismatch(
        f"The handler, as it is now, cannot go on with this invocation ({str(why).splitlines()[0]}).\n"
        + side_by_side(entries, issued)
    )


def _watch(vm: Any, issued: list[Entry]) -> None:
    """Have the core's commands noted, and nothing done that is not recorded."""

    def noted(kind: str, give: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        texts = [each for each in (*args, *kwargs.values()) if isinstance(each, str)]
        name = "/".join(texts[:2]) if kind in ("call", "send") else texts[0] if texts else ""
        if vm.is_replaying():
            issued.append(Entry(kind, name if kind in _NAMED else ""))
        return give(*args, **kwargs)

    for method, kind in _METHODS.items():
        give = getattr(vm, method, None)
        if give is not None:
            vars(vm)[method] = lambda *args, kind=kind, give=give, **kwargs: noted(kind, give, *args, **kwargs)
    progress = vm.do_progress

    def do_progress(tree: Any) -> Any:
        made = progress(tree)
        return SUSPENDED if isinstance(made, DoProgressExecuteRun) else made

    vars(vm)["do_progress"] = do_progress


class _Closed:
    """Where nothing comes from any more."""

    async def __call__(self) -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def enqueue_restate_event(self, what: Any) -> None:
        """Nobody waits for it."""


async def _nowhere(_: Any) -> None:
    """What the core writes is of no use here."""


# ------------------------------------------------------------ what the server sends


def _stream(recorded: RecordedJournal) -> bytes:
    """The messages that resume the invocation."""
    messages = [message for row in recorded.rows if (message := _message(row)) is not None]
    start = _field(1, _id_bytes(recorded.invocation_id)) + _field(2, recorded.invocation_id.encode())
    start += _varint(3 << 3) + _varint(len(messages))
    known, partial = _states(recorded.rows)
    for name, value in known.items():
        start += _field(4, _field(1, name.encode()) + _field(2, value))
    start += _varint(5 << 3) + _varint(int(partial))
    start += _field(6, recorded.key.encode())
    return b"".join(_framed(code, raw) for code, raw in [(_START, start), *messages])


_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _is_id(text: str) -> bool:
    return text.startswith("inv_1") and len(text) == 38 and set(text[5:]) <= set(_DIGITS)


def _id_bytes(invocation_id: str) -> bytes:
    """An id as the core wants it, which makes the ids of awakeables and random numbers of it."""
    if not _is_id(invocation_id):
        return invocation_id.encode()
    text = invocation_id.removeprefix("inv_1")
    numbers = []
    for part in (text[:11], text[11:]):
        number = 0
        for digit in part:
            number = number * 62 + _DIGITS.index(digit)
        numbers.append(number)
    return numbers[0].to_bytes(8, "little") + numbers[1].to_bytes(16, "little")


def _message(row: dict[str, Any]) -> tuple[int, bytes] | None:
    kind, _, name = row["entry_type"].partition(": ")
    if name == "Output" or kind not in ("Command", "Notification"):
        return None  # what it ended with is what is to be seen
    code = _COMMANDS[name][0] if kind == "Command" else _NOTIFICATIONS[name]
    return code, bytes.fromhex(row["raw"] or "")


def _framed(code: int, raw: bytes) -> bytes:
    return struct.pack(">HHI", code, 0, len(raw)) + raw


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _states(rows: Iterable[dict[str, Any]]) -> tuple[dict[str, bytes], bool]:
    """The states that the invocation began with, as far as it has read them, and whether there may be others."""
    known: dict[str, bytes] = {}
    changed: set[str] = set()
    partial = False
    for row in rows:
        name, command = _command(row)
        if name == "GetEagerState" and command["key"] not in changed:
            found = command.get("result")
            if isinstance(found, dict) and "Success" in found:
                known.setdefault(command["key"], bytes(found["Success"]))
        elif name == "GetEagerStateKeys":
            for key in command.get("state_keys", ()):
                if key not in changed:
                    known.setdefault(key, b"null")
        elif name in ("GetLazyState", "GetLazyStateKeys"):
            partial = True
        if name in ("SetState", "ClearState", "GetEagerState"):
            changed.add(command["key"])
    return known, partial


def _command(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind, _, name = row["entry_type"].partition(": ")
    if kind != "Command" or not row.get("entry_json"):
        return "", {}
    return name, json.loads(row["entry_json"])["Command"].get(name, {})


def _entry(row: dict[str, Any]) -> Entry | None:
    kind, _, name = row["entry_type"].partition(": ")
    if kind != "Command" or not _COMMANDS.get(name, (0, ""))[1]:
        return None
    shown = _COMMANDS[name][1]
    if shown not in _NAMED:
        return Entry(shown, "")
    return Entry(shown, row.get("name") or _called(_command(row)[1]))


def _called(command: dict[str, Any]) -> str:
    target = command.get("request", {}).get("invocation_target", {})
    for each in target.values():
        return f"{each.get('name')}/{each.get('handler') if isinstance(each.get('handler'), str) else ''}"
    return str(command.get("key") or "")
