"""Which process serves a session's services, when several processes have a session of the same name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from restate_nb.errors import InvalidInput, ServerError
from restate_nb.server.admin import Admin
from restate_nb.service.endpoint import Endpoint

_INTERVAL: Final = 2.0  # seconds between two looks
_CONNECT_TIMEOUT: Final = 1.0  # seconds; it is a port of this machine


NOT_REACHED: Final = (
    "Restate cannot reach this process, so it cannot run functions of this notebook. What can be done:\n"
    "  - rnb.invoke(client, inputs) calls handlers that are deployed in Restate, and needs nothing here\n"
    "  - rnb.connect(..., admin_url=..., endpoint='http://this-host:9081', identity_key='publickeyv1_...') lets\n"
    "    Restate reach this process at that address\n"
    "  - rnb.start() runs jobs on a server of this machine"
)


class Absent:
    """Stands for the attendance of a process that Restate cannot reach."""

    async def register(self) -> None:
        """Raises InvalidInput, which says what to do."""
        raise InvalidInput(NOT_REACHED)

    async def take(self) -> None:
        """Raises InvalidInput, which says what to do."""
        raise InvalidInput(NOT_REACHED)

    async def take_if_able(self) -> None:
        """Nothing can come here."""

    async def take_if_free(self) -> bool:
        """Nothing can come here."""
        return False

    def watch(self) -> None:
        """There is nothing to look at."""

    async def close(self) -> None:
        """There is nothing to end."""


def attendance_of(admin: Admin | None, endpoint: Endpoint, taken: Callable[[], Awaitable[None]]) -> Attendance | Absent:
    """How what is new comes to this process, if it can; for `taken` see `Attendance`."""
    if admin is None or not endpoint.reachable:
        return Absent()
    return Attendance(admin, endpoint, taken)


class Attendance:
    """Has Restate send what is new here, and takes over when the process that it sends to is gone.

    Restate knows one place for the services of a session. It is the process whose cell ran last; what runs in another
    one stays there. A process that only looks on, at `rnb.jobs()` or a chart, takes nothing from one that lives.
    """

    def __init__(self, admin: Admin, endpoint: Endpoint, taken: Callable[[], Awaitable[None]]) -> None:
        """`taken` is awaited when it has taken over."""
        self._admin = admin
        self._endpoint = endpoint
        self._taken = taken
        self._watching: asyncio.Task[None] | None = None

    async def register(self) -> None:
        """Tell Restate what this process serves, and that it is to be found here.

        Raises:
            ServerError: the server does not answer, or refuses what is served.
        """
        deployment = await self._admin.point(self._endpoint.service_names, self._endpoint.url)
        await self._admin.resume_stuck(deployment)

    async def take(self) -> None:
        """Have what is new come here, if it goes elsewhere.

        Raises:
            ServerError: see `register`.
        """
        if any(place != _place(self._endpoint.url) for place in await self._places()):
            await self.register()

    async def take_if_able(self) -> None:
        """The same, since it is able to."""
        await self.take()

    async def take_if_free(self) -> bool:
        """Have what is new come here, unless a living process gets it. Says whether it did so.

        Raises:
            ServerError: see `register`.
        """
        places = await self._places()
        if places and all([await _listens(*place) for place in places]):
            return False
        await self.register()
        return True

    def watch(self) -> None:
        """Begin to look, now and then, whether the process that serves is still there. Call it on the loop."""
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                if await self.take_if_free():
                    await self._taken()
            except ServerError:
                continue  # the server is away; the next look finds it, or the next

    async def close(self) -> None:
        """End the looking."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def _places(self) -> set[tuple[str, int]]:
        """Where Restate finds our services: host and port of each deployment."""
        ours = set(self._endpoint.service_names)
        known = await self._admin.deployments()
        return {_place(each["uri"]) for each in known if ours & {service["name"] for service in each["services"]}}


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


async def _listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # refused, or too slow
        return False
    writer.transport.abort()
    return True
