"""A proxy for the tests: passes connections on, and breaks them at random moments, or instead of giving an answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from restate_nb.engine.loop_thread import LoopThread

Place = Path | tuple[str, int]
"""A Unix socket, or host and port."""


class Proxy:
    """Listens at `place` (a free port when it is None) and passes on to `target`, in a thread of its own.

    Attributes:
        told: how many connections were `dropped`, and how many answers `swallowed`.
    """

    def __init__(self, target: Callable[[], Place], place: Path | None = None) -> None:
        self.told = Counter[str]()
        self._target = target
        self._loop = LoopThread("proxy")
        self._open: set[_Pair] = set()
        self._swallow: list[tuple[bytes, int]] = []
        self._dropping: asyncio.Task[None] | None = None
        self.place = self._loop.run(self._listen(place))

    async def _listen(self, place: Path | None) -> Place:
        if place is not None:
            self._server = await asyncio.start_unix_server(self._serve, place)
            return place
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    def swallow(self, request: bytes, times: int) -> None:
        """Let requests with these bytes in them through, and break the connection when their answer comes."""
        self._swallow.append((request, times))

    def drop(self, rng: random.Random, pause: tuple[float, float]) -> None:
        """Begin to break connections at random moments, a random one each time, in the middle of what it says."""

        async def drop() -> None:
            while True:
                await asyncio.sleep(rng.uniform(*pause))
                if self._open:
                    rng.choice(sorted(self._open, key=lambda pair: pair.number)).cut(rng.randrange(200))
                    self.told["dropped"] += 1

        async def begin() -> None:
            self._dropping = asyncio.create_task(drop())

        self._loop.run(begin())

    def behave(self) -> None:
        """Break nothing any more."""

        async def end() -> None:
            if self._dropping is not None:
                self._dropping.cancel()
            self._swallow.clear()

        self._loop.run(end())

    def close(self) -> None:
        """End all connections."""

        async def close() -> None:
            self._server.close()
            for pair in list(self._open):
                pair.abort()

        self._loop.run(close())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target()
        try:
            if isinstance(target, Path):
                upstream = await asyncio.open_unix_connection(target)
            else:
                upstream = await asyncio.open_connection(*target)
        except OSError:  # nobody listens there: the same for whoever came to us
            writer.transport.abort()
            return
        pair = _Pair(self, (reader, writer), upstream)
        self._open.add(pair)
        try:
            await pair.pass_on()
        finally:
            self._open.discard(pair)

    def _takes_answer_to(self, request: bytes) -> bool:
        for index, (wanted, times) in enumerate(self._swallow):
            if times and wanted in request:
                self._swallow[index] = wanted, times - 1
                return True
        return False


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    _count = 0

    def __init__(self, proxy: Proxy, client: Stream, upstream: Stream) -> None:
        _Pair._count += 1
        self.number = _Pair._count
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._rest: int | None = None  # bytes that still get through
        self._swallowing = False

    async def pass_on(self) -> None:
        try:
            await asyncio.gather(
                self._pass(self._client[0], self._upstream[1], request=True),
                self._pass(self._upstream[0], self._client[1], request=False),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, request: bool) -> None:
        while data := await reader.read(65536):
            if request and self._proxy._takes_answer_to(data):
                self._swallowing = True
            elif not request and self._swallowing:
                self._proxy.told["swallowed"] += 1
                self.abort()
                return
            if self._rest is not None:
                writer.write(data[: self._rest])
                self._rest -= len(data)
                if self._rest <= 0:
                    self.abort()
                    return
            else:
                writer.write(data)
            await writer.drain()
        self.abort()  # HTTP needs no half-open connections

    def cut(self, after: int) -> None:
        """Break after so many more bytes; at once when nothing is being said."""
        if after < 100:
            self.abort()
        else:
            self._rest = after

    def abort(self) -> None:
        for _, writer in (self._client, self._upstream):
            writer.transport.abort()
