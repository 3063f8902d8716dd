"""Single calls from a cell: a handler of a served service, or a durable function.

Each is one invocation, whatever becomes of the connection: it has an idempotency key, the user's or one of its own, so
that asking again is waiting for the same. The run of a workflow has the workflow's key.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from restate import TerminalError
from restate.handler import Handler

from restate_nb.backends.connection import Connection
from restate_nb.engine.function import Function, name_of
from restate_nb.errors import InvalidInput, InvocationFailed, ServerError
from restate_nb.server.admin import Admin, sql_literal
from restate_nb.server.http import Unreachable
from restate_nb.server.ingress import written_key
from restate_nb.service.digest import code_base
from restate_nb.service.durable_handler import (
    DURABLE_HANDLER,
    DurableFunctions,
    DurableRequest,
    arguments_of,
    attempt_decoder,
)
from restate_nb.service.handlers import handler_of
from restate_nb.service.wire import decode_received, items_service
from restate_nb.service.wire import encode as encode_request

_QUIET_SECONDS: Final = 2.0  # that a call may take without a word
_LOOK_SECONDS: Final = 5.0  # that a look at its attempts may take


@dataclass(frozen=True, slots=True)
class CalledInvocation:
    """One call, as the person who waits for it knows it.

    Attributes:
        name: what is called.
        where: the condition in SQL that finds it among Restate's invocations.
        again: the option with which a further call waits for this one.
        advice: what to do when its attempts fail.
    """

    name: str
    where: str
    again: str
    advice: str


@dataclass(frozen=True, slots=True)
class HandlerCall:
    """A call of a handler, which is one invocation however often it is asked for.

    Attributes:
        handler: the SDK's handler.
        body: its input, as it travels.
        key: of the object or workflow.
        once: the idempotency key; None for the run of a workflow, which has its key.
        called: what the person who waits knows of it.
    """

    handler: Handler[Any, Any]
    body: bytes
    key: str | None
    once: str | None
    called: CalledInvocation

    @property
    def names(self) -> tuple[str, str]:
        """The names of the service and the handler."""
        return self.handler.service_tag.name, self.handler.name

    async def value(self, connection: Connection) -> Any:
        """Call it, and wait for what it returns.

        Raises:
            InvocationFailed: it ended with an error.
            ServerError: Restate refuses the call, or did not answer for longer than a connected session waits.
        """
        if self.once is None:
            asking = self._run_of_workflow(connection)
        else:
            asking = connection.ingress.call(
                *self.names, self.body, key=self.key, idempotency_key=self.once, patience=None
            )
        return self.handler.handler_io.output_serde.deserialize(await answer_of(connection, asking, self.called))

    async def _run_of_workflow(self, connection: Connection) -> bytes:
        """What comes of the one run that a workflow has: it takes no idempotency key, and needs none."""
        return await connection.ingress.attach_id(await self.send(connection))

    async def send(self, connection: Connection, delay: float | None = None) -> str:
        """Submit it, without waiting for its result; the id of the invocation.

        Raises:
            ServerError: Restate refuses the call, or did not answer for longer than a connected session waits.
        """
        return await connection.ingress.send(
            *self.names,
            self.body,
            key=self.key,
            idempotency_key=self.once,
            delay=delay,
            patience=None,
            repeatable=True,
        )

    async def find(self, connection: Connection) -> str:
        """The id of the invocation that was submitted before, or would be.

        Raises:
            InvalidInput: the workflow has no run of that key.
            ServerError: there is no such handler.
        """
        if self.once is not None:
            return await connection.ingress.lookup(*self.names, self.once, self.key)
        rows = await connection.admin.query(f"select id from sys_invocation where {self.called.where}")
        if not rows:
            raise InvalidInput(f"{self.called.name} has no run of the key {self.key!r}, or it is no longer kept.")
        return str(rows[0]["id"])


def handler_call(
    function: Callable[..., Any], arg: tuple[Any, ...] | None, *, key: str | None, idempotency_key: str | None
) -> HandlerCall:
    """The call of a handler by its function.

    Args:
        function: of the handler.
        arg: its input, if it takes one; None for a call that was made before.
        key: of the object or workflow.
        idempotency_key: the user's, if any.

    Raises:
        InvalidInput: it is no handler, or its key or its input is missing, too much, or cannot be written.
    """
    handler = handler_of(function)
    tag, io = handler.service_tag, handler.handler_io
    name = f"{tag.name}/{handler.name}"
    if (key is not None) != (tag.kind != "service"):
        problem = "a service has no keys" if key is not None else "it needs one: key=..."
        raise InvalidInput(f"{name} belongs to a Restate {tag.kind}: {problem}.")
    if arg is not None and len(arg) != handler.arity - 1:
        wanted = "one argument, its input" if handler.arity == 2 else "no argument"
        raise InvalidInput(f"{name} takes {wanted}, and {len(arg)} were given.")
    try:
        body = bytes(io.input_serde.serialize(arg[0])) if arg else b""
    except TerminalError as error:
        raise InvalidInput(error.message) from error
    where = f"target_service_name = {sql_literal(tag.name)} and target_handler_name = {sql_literal(handler.name)}"
    once: str | None = None
    if handler.kind == "workflow":
        if idempotency_key is not None:
            raise InvalidInput(f"{name} runs once a key, whoever calls it: leave out idempotency_key.")
        where, again = f"{where} and target_service_key = {sql_literal(str(key))}", f"key={key!r}"
    else:
        once = uuid.uuid4().hex if idempotency_key is None else idempotency_key
        where += f" and idempotency_key = {sql_literal(written_key(once))}"
        again = f"idempotency_key={once!r}"
    advice = "Mend the handler and serve it again; or interrupt, and the invocation goes on without you."
    return HandlerCall(handler, body, key, once, CalledInvocation(name, where, again, advice))


class DurableCall:
    """One run of a durable function.

    The process that makes it knows the very function under the key of the call. Another one, or this one after a
    restart, knows a function of the same name and code, once a cell has called it there.
    """

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], idempotency_key: str | None
    ) -> None:
        """`idempotency_key`: that of the user, if any.

        Raises:
            InvalidInput: the arguments do not fit the function.
        """
        if idempotency_key is None:
            idempotency_key = _key_among(fn, kwargs)
        if idempotency_key is not None:
            _check_key(fn, idempotency_key)
        passing, item = arguments_of(args, kwargs)
        self._fn = fn
        self._name = name_of(fn)
        self._target = Function(fn, passing, durable=True)
        raw = self._target.encode(item)
        self._target.check_item(0, item, raw)
        self._option = idempotency_key or uuid.uuid4().hex
        self._key = f"call/{self._name}/{self._option}"
        self._request = DurableRequest(
            function=f"call/{self._name}-{code_base(fn)}",
            name=self._name,
            passing=passing,
            item=msgspec.Raw(raw),
            call=self._key,
        )

    def provide(self, functions: DurableFunctions) -> None:
        """Let this process run the function; what it prints is printed in the context of the caller."""
        functions.provide(self._key, self._fn)
        functions.provide(self._request.function, self._fn)

    async def value(self, connection: Connection) -> Any:
        """Make the call, and wait for what comes of it.

        Raises:
            InvocationFailed: it raised, or was cancelled.
            ServerError: Restate refuses the call, or did not answer for longer than a connected session waits.
        """
        service = items_service(connection.session)
        invocation = CalledInvocation(
            self._name,
            f"target_service_name = {sql_literal(service)} and idempotency_key = {sql_literal(written_key(self._key))}",
            f"idempotency_key={self._option!r}",
            "Run the cell that defines it, mended; or interrupt, and the invocation goes on without you.",
        )
        asking = connection.ingress.call(
            service, DURABLE_HANDLER, encode_request(self._request), idempotency_key=self._key, patience=None
        )
        try:
            body = await answer_of(connection, asking, invocation)
        except InvocationFailed:
            connection.functions.forget(self._key)
            raise
        connection.functions.forget(self._key)
        attempt = decode_received(attempt_decoder, body, f"the outcome of {self._name}")
        if (failure := attempt.failure) is not None:
            says = f"{failure.type}: {failure.message}\n\n{failure.traceback}"
            raise InvocationFailed(500, says, f"of {self._name}")
        return self._target.value(attempt.value)


def _key_among(fn: Callable[..., Any], kwargs: dict[str, Any]) -> str | None:
    """The `key` among the arguments by name, which it is taken from; None if the function itself takes one."""
    parameters = inspect.signature(fn).parameters
    if "key" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return None
    key: str | None = kwargs.pop("key", None)
    return key


def _check_key(fn: Callable[..., Any], key: object) -> None:
    if not isinstance(key, str) or not key:
        raise InvalidInput(f"idempotency_key must be a text that names this call, such as 'order 17', not {key!r}.")
    if "idempotency_key" in inspect.signature(fn).parameters:
        raise InvalidInput(
            f"{name_of(fn)} has a parameter idempotency_key itself, and rnb.call has an option of that name: give the "
            "parameter another name, or pass its value by position."
        )


# ------------------------------------------------------------ while one waits


async def answer_of(connection: Connection, asking: Coroutine[Any, Any, bytes], invocation: CalledInvocation) -> bytes:
    """Wait for the answer, and print what holds it up."""
    telling = asyncio.create_task(_tell(connection, invocation))
    try:
        return await asking
    except Unreachable as error:
        raise ServerError(
            f"{error} Whether {invocation.name} was begun is unknown. If it was, it goes on in Restate: the same call "
            f"with {invocation.again} waits for that invocation, and begins it if there is none."
        ) from None
    finally:
        telling.cancel()


async def _tell(connection: Connection, invocation: CalledInvocation) -> None:
    """Say what is wrong, once it takes longer: the server is away, or attempts fail, which are repeated for ever."""
    told = ""
    while True:
        await asyncio.sleep(_QUIET_SECONDS)
        says = ""
        if trouble := await asyncio.to_thread(connection.trouble):
            says = f"{invocation.name} waits, and goes on by itself when that is over: {trouble}."
        elif connection.admin_if_any is not None:
            says = await _failing(connection.admin_if_any, invocation)
        if says and says != told:
            print(says)
            told = says


async def _failing(admin: Admin, invocation: CalledInvocation) -> str:
    """Of which failure Restate tries again, or has paused, if it does."""
    sql = (
        "select status, retry_count, last_failure from sys_invocation where status in ('backing-off', 'paused') "
        f"and {invocation.where} limit 1"
    )
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            rows = await admin.query(sql)
    except (ServerError, TimeoutError):
        return ""  # what it would tell is of help, and not needed: the call goes on
    if not rows or not rows[0].get("last_failure"):
        return ""
    then = "Restate has paused it" if rows[0].get("status") == "paused" else "Restate tries again"
    return (
        f"{invocation.name}: attempt {rows[0].get('retry_count')} failed, {then}: {rows[0]['last_failure']}\n"
        f"{invocation.advice}"
    )
