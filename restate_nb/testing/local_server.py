"""A real restate-server for tests: a pytest fixture that serves your services from this process."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from restate.handler import handler_from_callable

from restate_nb.patterns.typed_values import with_typed_io
from restate_nb.server.admin import Admin
from restate_nb.server.ingress import Ingress
from restate_nb.server.lifecycle import ServerHandle, start_server
from restate_nb.service.endpoint import Definition, Endpoint, ListenAddress
from restate_nb.testing.callees import decode, encode, target_of
from restate_nb.testing.recorded import RecordedJournal, read_journal

T = TypeVar("T")

ALWAYS_REPLAY = {"RESTATE_WORKER__INVOKER__INACTIVITY_TIMEOUT": "0s"}
"""The server suspends a handler whenever it waits, and runs it again from its journal."""

_RETRY_SOON = {"RESTATE_DEFAULT_RETRY_POLICY__INITIAL_INTERVAL": "10ms"}


class LocalServer:
    """A restate-server that serves this process' services; made by `server` or `running_server`.

    Attributes:
        handle: the server process, its addresses and its log.
    """

    def __init__(self, handle: ServerHandle) -> None:
        self.handle = handle
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="restate_nb.testing", daemon=True)
        self._ingress = Ingress(handle.ingress)
        self._admin = Admin(handle.admin)
        self._endpoint: Endpoint

    async def call(
        self,
        handler: Callable[..., Any] | str,
        arg: Any = None,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Invoke a handler and wait for its result.

        Args:
            handler: the handler function, or "Service/handler".
            arg: the input.
            key: of the object or workflow.
            idempotency_key: calls with one key are one invocation.

        Raises:
            restate_nb.errors.InvocationFailed: with the `code` and the `reason` of its TerminalError.
            restate_nb.errors.InvalidInput: `handler` is neither a handler nor a name.
        """
        service, name = target_of(handler).split("/")
        body = encode(arg) if isinstance(handler, str) else _io(handler).input_serde.serialize(arg)
        found = await self._on_loop(
            self._ingress.call(service, name, bytes(body), key=key, idempotency_key=idempotency_key)
        )
        return decode(found) if isinstance(handler, str) else _io(handler).output_serde.deserialize(found)

    async def send(self, handler: Callable[..., Any] | str, arg: Any = None, *, key: str | None = None) -> str:
        """Invoke a handler without waiting for it; returns the invocation's id.

        Args:
            handler: as for `call`, and so are `arg` and `key`.
            arg: the input.
            key: of the object or workflow.

        Raises:
            restate_nb.errors.InvalidInput: `handler` is neither a handler nor a name.
        """
        service, name = target_of(handler).split("/")
        body = encode(arg) if isinstance(handler, str) else _io(handler).input_serde.serialize(arg)
        return await self._on_loop(self._ingress.send(service, name, bytes(body), key=key))

    async def result(self, invocation_id: str) -> Any:
        """Wait for the result of an invocation, decoded from JSON.

        Raises:
            restate_nb.errors.InvocationFailed: it failed.
        """
        return decode(await self._on_loop(self._ingress.attach_id(invocation_id)))

    async def cancel(self, invocation_id: str) -> None:
        """Cancel an invocation."""
        await self._on_loop(self._admin.cancel(invocation_id))

    async def journal(self, invocation_id: str) -> RecordedJournal:
        """The journal of an invocation, for `restate_nb.testing.replay`.

        Raises:
            restate_nb.errors.InvalidInput: there is none.
        """
        return await self._on_loop(read_journal(self._admin, invocation_id))

    async def query(self, sql: str) -> list[dict[str, Any]]:
        """Ask the server's SQL interface, such as `select * from sys_journal where id = '...'`."""
        return await self._on_loop(self._admin.query(sql))

    def log(self) -> str:
        """What the server has logged."""
        return self.handle.log_path.read_text(errors="replace")

    async def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._submit(work))

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _open(self, services: tuple[Definition, ...]) -> None:
        async def serve() -> None:
            self._endpoint = Endpoint(ListenAddress(self.handle.identity_key))
            self._endpoint.serve(*services)
            await self._endpoint.open()
            await self._admin.point(self._endpoint.service_names, self._endpoint.url)

        self._thread.start()
        self._submit(serve()).result(30)

    def _close(self) -> None:
        async def close_clients() -> None:
            await self._ingress.close()
            await self._admin.close()

        async def end() -> None:
            with suppress(Exception):  # hypercorn fails to end connections that a killed server left behind
                await self._endpoint.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._submit(close_clients()).result(30)
        self._submit(end()).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def running_server(
    *services: Definition, always_replay: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[LocalServer]:
    """Run a server with its data in a temporary directory, and serve `services` from this process.

    Args:
        services: Services, VirtualObjects and Workflows of restate-sdk.
        always_replay: suspend a handler whenever it waits, so that it is replayed from its journal each time; it shows
            handlers that are not deterministic.
        env: further settings of restate-server.

    Raises:
        restate_nb.errors.ServerError: the server cannot be found, installed or started.
    """
    settings = {**_RETRY_SOON, **(ALWAYS_REPLAY if always_replay else {}), **(env or {})}
    with (
        tempfile.TemporaryDirectory(prefix="restate-") as folder,
        start_server(Path(folder) / "data", env=settings) as handle,
    ):
        running = LocalServer(handle)
        try:
            running._open(services)
            yield running
        finally:
            running._close()


def server(
    *services: Definition,
    always_replay: bool = False,
    env: Mapping[str, str] | None = None,
    scope: Literal["session", "package", "module", "class", "function"] = "module",
) -> Any:
    """A pytest fixture: `running_server` for the tests that ask for it.

    Args:
        services: as for `running_server`.
        always_replay: as for `running_server`.
        env: as for `running_server`.
        scope: how long the server lives.

    Raises:
        restate_nb.errors.ServerError: in the tests that ask for it: the server cannot be found, installed or started.

    Example:
        >>> restate_server = server(inventory, always_replay=True)
        >>> async def test_stock(restate_server):
        ...     assert await restate_server.call(get_stock, "apple") == 5
    """
    import pytest  # noqa: PLC0415 - only tests have it

    @pytest.fixture(scope=scope)
    def restate_server() -> Iterator[LocalServer]:
        with running_server(*services, always_replay=always_replay, env=env) as running:
            yield running

    return restate_server


def _io(handler: Callable[..., Any]) -> Any:
    found: Any = with_typed_io(handler_from_callable(handler))
    return found.handler_io
