"""Has Restate balance shards over the workers behind one address, by how it spreads connections over them.

Restate makes one connection to an address, sends up to 128 invocations over it, and makes the next when that is full.
A connection belongs to one worker. So a worker says that one of its connections takes one invocation, and asks for
another connection from time to time, which may lead to a worker that was started later.
"""

from __future__ import annotations

import random
import time
from typing import Any, Final

import hypercorn.protocol
from h2.events import RequestReceived
from h2.settings import SettingCodes, Settings
from hypercorn.events import RawData
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame

STREAMS: Final = 1
"""Invocations that a connection takes."""

LIFETIME: Final = 10.0
"""Seconds, on average, after which a connection takes no further one: what runs goes on to its end.

Each connection has its own, so that they do not end together. Over a connection that has just been made, Restate sends
all that waits, up to a limit of its own, before it hears of ours: if many waited, they would all be at one worker.
"""

_LAST_STREAM: Final = 2**31 - 1


class _AnnouncedSettings(Settings):
    """Announces a bound on streams and does not enforce it: before Restate knows it, it may have sent more."""

    @property
    def max_concurrent_streams(self) -> int:
        return _LAST_STREAM

    @max_concurrent_streams.setter
    def max_concurrent_streams(self, value: int) -> None:
        self[SettingCodes.MAX_CONCURRENT_STREAMS] = value


class _SingleStreamProtocol(H2Protocol):
    """A connection for one invocation at a time, which ends after a while."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        settings = {SettingCodes(code): value for code, value in self.connection.local_settings.items()}
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = STREAMS
        self.connection.local_settings = _AnnouncedSettings(client=False, initial_values=settings)
        self._until = time.monotonic() + LIFETIME * random.uniform(0.5, 1.5)
        self._leaving = False

    async def _create_stream(self, request: RequestReceived) -> None:
        await super()._create_stream(request)
        if not self._leaving and time.monotonic() >= self._until:
            self._leaving = True
            # Not `close_connection`, which would let nothing more through: the client ends it when all is answered.
            goodbye = GoAwayFrame(0, last_stream_id=_LAST_STREAM, error_code=0)
            await self.send(RawData(data=goodbye.serialize()))


def balance_connections() -> None:
    """Have all endpoints of this process balance their connections.

    hypercorn (0.17 and 0.18, see `pyproject.toml`) has no option for it, so its class for HTTP/2 is replaced.
    """
    module: Any = hypercorn.protocol
    module.H2Protocol = _SingleStreamProtocol
