"""The kernel's Restate endpoint: an ASGI server on one port, which answers none but its own restate-server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import restate
from hypercorn.asyncio import serve
from hypercorn.config import Config
from restate.endpoint import Endpoint as RestateEndpoint

from restate_nb.errors import InvalidInput
from restate_nb.patterns.sdk import is_of_the_attempt
from restate_nb.patterns.typed_values import typed_values

_CLOSE_TIMEOUT: Final = 2.0  # seconds for the streams to end
_DISCONNECT_TIMEOUT: Final = 0.2  # seconds for the client to close a stream
_log = logging.getLogger("restate_nb.endpoint")

Definition = restate.Service | restate.VirtualObject | restate.Workflow


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where this process listens for Restate, and how Restate reaches it.

    Attributes:
        identity_key: the public key of the server that is let in, as `publickeyv1_...`; None lets everybody in.
        host: the address to listen on.
        port: 0 for any that is free.
        url: how Restate reaches it; None for that host and port.
        shared: whether other processes listen on the same port, too; connections are spread over them.
    """

    identity_key: str | None
    host: str = "127.0.0.1"
    port: int = 0
    url: str | None = None
    shared: bool = False


def _is_broken_off(error: BaseException | None) -> bool:
    """Whether the SDK failed because restate-server broke a request off, to make it again: no reason for a message."""
    return "input was closed" in str(error)


class _WithoutBrokenOff(logging.Filter):
    """Leaves such failures out of what the SDK logs, which a notebook prints."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.exc_info is None or not _is_broken_off(record.exc_info[1])


logging.getLogger("restate.server").addFilter(_WithoutBrokenOff())


@asynccontextmanager
async def _exceptions_only() -> AsyncIterator[None]:
    """Around each handler: a BaseException that it raises fails its attempt, and does not end our loop."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if is_of_the_attempt(error):
            raise
        raise RuntimeError(f"the handler raised {type(error).__name__}: {error}") from error


class Endpoint:
    """Serves Restate services from the loop on which it is opened.

    The port is TCP, since restate-server cannot dial a Unix socket, and loopback unless asked otherwise; requests must
    bear the signature of the server whose public key is given (https://docs.restate.dev/services/security), others get
    401.
    """

    def __init__(self, listen: ListenAddress | None) -> None:
        """`listen`: where to listen, and for whom; None for not at all."""
        self._endpoint = RestateEndpoint()  # type: ignore[no-untyped-call]
        self._listen = listen
        if listen is not None and listen.identity_key is not None:
            self._endpoint.identity_key(listen.identity_key)
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._receiving: set[asyncio.Task[Any]] = set()
        self._port: int | None = None

    @property
    def reachable(self) -> bool:
        """Whether it listens, or will."""
        return self._listen is not None

    @property
    def url(self) -> str:
        """Where Restate reaches it.

        Raises:
            RuntimeError: it is not open.
        """
        if self._port is None or self._listen is None:
            raise RuntimeError("The endpoint is not open.")
        return self._listen.url or f"http://{self._listen.host}:{self._port}"

    @property
    def service_names(self) -> list[str]:
        """The names of all services that it serves."""
        return sorted(self._endpoint.services)

    def serve(self, *definitions: Definition) -> None:
        """Add services, or put them in the place of those of the same name; what runs ends with the old code."""
        typed_values(*definitions)
        for definition in definitions:
            for handler in definition.handlers.values():
                if _exceptions_only not in (handler.context_managers or ()):
                    handler.context_managers = [_exceptions_only, *(handler.context_managers or ())]
            self._endpoint.services.pop(definition.name, None)
            self._endpoint.bind(definition)

    async def open(self) -> None:
        """Start to listen, if it is to.

        Raises:
            InvalidInput: the address cannot be listened on.
        """
        if self._listen is None:
            return
        at = self._listen.host, self._listen.port
        try:
            listening = socket.create_server(at, backlog=256, reuse_port=self._listen.shared)
        except OSError as error:
            raise InvalidInput(
                f"This process cannot listen on {at[0]}:{at[1]}: {error}. Choose another address with bind='host:port'."
            ) from None
        self._port = listening.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listening.detach()}"]  # hypercorn closes it
        config.h2_max_concurrent_streams = 2**31 - 1  # an open shard is a stream; a bound would hold shards up
        config.keep_alive_max_requests = 2**31 - 1
        config.keep_alive_timeout = 10**9
        config.graceful_timeout = 0.5
        config.errorlog = _log
        config.accesslog = None
        self._app: Any = self._endpoint.app()  # type: ignore[no-untyped-call]
        self._serving = asyncio.create_task(serve(self._answer, config, mode="asgi", shutdown_trigger=self._stop.wait))

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI app: the SDK's, and an answer to the lifespan messages, at which the SDK's raises."""
        if scope["type"] != "lifespan":
            try:
                await self._app(scope, lambda: self._receive(receive), send)
            except Exception as error:
                if not _is_broken_off(error):
                    raise
            if self._stop.is_set():
                await _until_disconnected(receive)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    async def _receive(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """The next message of a request; that its client is gone, once the endpoint is being closed.

        So handlers end as they do when a connection breaks. Cancelling them instead makes hypercorn fail.
        """
        if self._stop.is_set():
            return {"type": "http.disconnect"}
        task = asyncio.current_task()  # the SDK's, which reads one request
        assert task is not None
        self._receiving.add(task)
        try:
            return await receive()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            task.uncancel()
            return {"type": "http.disconnect"}
        finally:
            self._receiving.discard(task)

    async def close(self) -> None:
        """Stop to listen, and end what runs: restate-server will have it run again elsewhere."""
        self._stop.set()
        for task in self._receiving:
            task.cancel()
        if self._serving is not None:
            _, running = await asyncio.wait({self._serving}, timeout=_CLOSE_TIMEOUT)
            if running:  # a stream whose client was killed may never end; cancelled, hypercorn fails on itself
                self._serving.cancel()
                await asyncio.wait({self._serving})
            if not self._serving.cancelled() and (error := self._serving.exception()) is not None:
                _log.info("The endpoint ended with an error: %r", error)
        self._port = None


async def _until_disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait until the client has closed the stream: hypercorn fails on data for one that it has closed itself.

    A server that others use goes on, and closes nothing; then the stream is ended here, before hypercorn cancels it,
    at which it fails for certain.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCONNECT_TIMEOUT):
            while (await receive())["type"] != "http.disconnect":
                pass
