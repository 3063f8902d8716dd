"""Which process serves a session's services, when several processes have a session of the same name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from restate_nb.errors import InvalidInput, ServerError
from restate_nb.server.admin import Admin
from restate_nb.service.endpoint import Endpoint
from restate_nb.session.liveness import Liveness, is_within, uri_of

_INTERVAL: Final = 2.0  # seconds between two looks


NOT_REACHED: Final = (
    "Restate cannot reach this process, so it cannot run functions of this notebook. What can be done:\n"
    "  - rnb.invoke(client, inputs) calls handlers that are deployed in Restate, and needs nothing here\n"
    "  - rnb.connect(..., admin_url=..., endpoint='http://this-host:9081', identity_key='publickeyv1_...') lets\n"
    "    Restate reach this process at that address\n"
    "  - rnb.start() runs jobs on a server of this machine"
)


class Unregistered:
    """Stands for the attendance of a process that Restate cannot reach."""

    reachable = False

    async def register(self, *, alone: bool = False) -> None:
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


def deployments_of(
    admin: Admin | None, endpoint: Endpoint, taken: Callable[[], Awaitable[None]], *, local: bool
) -> Deployments | Unregistered:
    """How what is new comes to this process, if it can; for `taken` and `local` see `Attendance` and `Liveness`."""
    if admin is None or not endpoint.reachable:
        return Unregistered()
    return Deployments(admin, endpoint, taken, Liveness(admin, local=local))


class Deployments:
    """Has Restate send what is new here, and takes over what a process that is gone has left.

    Each process has a deployment of its own. What is new comes to the process whose cell ran last; what runs in another
    one stays with that one's deployment, when the server is restarted too. The deployment of a process that is gone is
    pointed at one that lives. A process that only looks on, at `rnb.jobs()` or a chart, takes nothing from another.
    """

    reachable = True

    def __init__(
        self, admin: Admin, endpoint: Endpoint, taken: Callable[[], Awaitable[None]], liveness: Liveness
    ) -> None:
        """`taken` is awaited when it has taken over; `liveness` tells who is gone."""
        self._liveness = liveness
        self._admin = admin
        self._endpoint = endpoint
        self._taken = taken
        self._watching: asyncio.Task[None] | None = None

    async def register(self, *, alone: bool = False) -> None:
        """Tell Restate what this process serves now, and that what is new is to come here.

        Args:
            alone: that no other process has this session, whatever listens where one was.

        Raises:
            ServerError: the server does not answer, or refuses what is served.
        """
        known = await self._deployments()
        here = [each for each in known if self._is_here(each)]
        if alone:
            here = [each for each in known if each in here or any(name.startswith("rnb-") for name in _services(each))]
        await self._adopt([*here, *await self._gone([each for each in known if each not in here])])
        if not await self._gets_new():
            await self._admin.register(self._endpoint.service_names, self._endpoint.url)
        await self._resume()
        if alone:
            await self._tidy()

    async def take(self) -> None:
        """Have what is new come here, if it goes elsewhere.

        Raises:
            ServerError: see `register`.
        """
        if not await self._gets_new():
            await self.register()

    async def take_if_able(self) -> None:
        """The same, since it is able to."""
        await self.take()

    async def take_if_free(self) -> bool:
        """Take over what processes that are gone have left. Says whether there was something.

        Raises:
            ServerError: see `register`.
        """
        known = await self._deployments()
        if not known:
            await self.register()
            return True
        gone = await self._gone([each for each in known if not self._is_here(each)])
        if gone:
            await self._adopt(gone)
            await self._resume()
        return bool(gone)

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

    async def _deployments(self) -> list[dict[str, Any]]:
        """Those of this session: ours, and those of other processes."""
        ours = set(self._endpoint.service_names)
        known = await self._admin.deployments()
        return [each for each in known if ours & _services(each)]

    def _is_here(self, deployment: dict[str, Any]) -> bool:
        return is_within(uri_of(deployment), self._endpoint.url)

    async def _gone(self, deployments: Collection[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of the session's own: another that serves a service of the same name is not ours to take over."""
        ours = {name for name in self._endpoint.service_names if name.startswith("rnb-")}
        return await self._liveness.gone([each for each in deployments if ours & _services(each)], ours)

    async def _serve_new(self) -> list[dict[str, Any]]:
        """To which deployment Restate sends what is new of each of our services: that of the latest revision."""
        latest: dict[str, tuple[int, dict[str, Any]]] = {}
        for deployment in await self._deployments():
            for service in deployment["services"]:
                name, revision = service["name"], service["revision"]
                if name in self._endpoint.service_names and revision > latest.get(name, (0, {}))[0]:
                    latest[name] = revision, deployment
        return [deployment for _, deployment in latest.values()]

    async def _gets_new(self) -> bool:
        serving = await self._serve_new()
        return bool(serving) and all(map(self._is_here, serving))

    async def _adopt(self, deployments: Collection[dict[str, Any]]) -> None:
        """Point deployments here, and have Restate read anew what is served. Each keeps a URI of its own: the endpoint
        does not care about what comes before its own paths."""
        taken = {uri_of(each) for each in await self._admin.deployments()}
        for each in deployments:
            uri = uri_of(each)
            if not self._is_here(each):
                uri = self._endpoint.url if self._endpoint.url not in taken else f"{self._endpoint.url}/{each['id']}"
            await self._admin.redirect(each["id"], uri)
            taken.add(uri)

    async def _resume(self) -> None:
        """What waits for its next attempt here need not wait any longer."""
        await self._admin.resume_stuck(*(each["id"] for each in await self._deployments() if self._is_here(each)))

    async def _tidy(self) -> None:
        """Drop the deployments that processes of before have left and nothing needs."""
        needed = {each["id"] for each in await self._serve_new()} | await self._admin.in_use()
        for each in await self._deployments():
            if each["id"] not in needed:
                await self._admin.delete_deployment(each["id"])


def _services(deployment: dict[str, Any]) -> set[str]:
    return {service["name"] for service in deployment["services"]}
