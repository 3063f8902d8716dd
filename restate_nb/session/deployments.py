"""The deployments of a session in Restate: one for each process that has a session of this name.

Whether the process behind a deployment lives is asked of Restate, whose word counts, since it calls the deployment.
An address may be valid only where Restate is (a container's, a service name of a cluster), or hidden behind a proxy,
and a packet that is lost on the way from here says nothing. So Restate is asked to read what is served there, as it
does to register a deployment, without registering one: 10 ms where somebody lives, 1.8 s where nobody listens.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from restate_nb.errors import InvalidInput, ServerError
from restate_nb.server.admin import Admin
from restate_nb.server.http import Rejected
from restate_nb.service.endpoint import Endpoint

LOOK_SECONDS: Final = 2.0  # seconds between two looks
ANSWER_SECONDS: Final = 5.0
_FAILED_LOOKS: Final = 3
"""Failed looks in a row until a process counts as gone, where Restate does not say that nobody listens there."""

_NOBODY_LISTENS: Final = "Connection refused"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


NOT_REACHED: Final = (
    "Restate cannot reach this process, so it cannot run functions of this notebook. What can be done:\n"
    "  - rnb.invoke(client, inputs) calls handlers that are deployed in Restate, and needs nothing here\n"
    "  - rnb.connect(..., admin_url=..., endpoint='http://this-host:9081', identity_key='publickeyv1_...') lets\n"
    "    Restate reach this process at that address\n"
    "  - rnb.start() runs jobs on a server of this machine"
)


class NoDeployments:
    """In place of `Deployments` in a process that Restate cannot reach."""

    reachable = False

    async def register(self, *, alone: bool = False) -> None:
        """Raises InvalidInput, which says what to do."""
        raise InvalidInput(NOT_REACHED)

    async def ensure_registered(self) -> None:
        """Raises InvalidInput, which says what to do."""
        raise InvalidInput(NOT_REACHED)

    async def register_if_reachable(self) -> None:
        """It is not."""

    async def take_over_gone(self) -> bool:
        """Take over nothing."""
        return False

    def watch(self) -> None:
        """Look at nothing."""

    async def close(self) -> None:
        """End nothing."""


def deployments_of(
    admin: Admin | None, endpoint: Endpoint, on_taken_over: Callable[[], Awaitable[None]], *, local: bool
) -> Deployments | NoDeployments:
    """The deployments of a session, as this process sees them.

    Args:
        admin: Restate's admin interface, where there is a way to it.
        endpoint: what this process serves.
        on_taken_over: is awaited when this process has taken over what one that is gone has left.
        local: whether Restate runs on this machine, and sees its loopback as this process does.
    """
    if admin is None or not endpoint.reachable:
        return NoDeployments()
    return Deployments(admin, endpoint, on_taken_over, Liveness(admin, local=local))


class Deployments:
    """Has Restate send what is new here, and takes over what a process that is gone has left.

    Each process has a deployment of its own. What is new comes to the process whose cell ran last; what runs in another
    one stays with that one's deployment, when the server is restarted too. The deployment of a process that is gone is
    pointed at one that lives. A process that only looks on, at `rnb.jobs()` or a chart, takes nothing from another.
    """

    reachable = True

    def __init__(
        self, admin: Admin, endpoint: Endpoint, on_taken_over: Callable[[], Awaitable[None]], liveness: Liveness
    ) -> None:
        """See `deployments_of`; `liveness` tells whose process is gone."""
        self._liveness = liveness
        self._admin = admin
        self._endpoint = endpoint
        self._on_taken_over = on_taken_over
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
        await self._redirect_here([*here, *await self._gone([each for each in known if each not in here])])
        if not await self._receives_new():
            await self._admin.register(self._endpoint.service_names, self._endpoint.url)
        await self._resume_stuck()
        if alone:
            await self._delete_unneeded()

    async def ensure_registered(self) -> None:
        """Register this deployment, unless Restate sends what is new here already.

        Raises:
            ServerError: see `register`.
        """
        if not await self._receives_new():
            await self.register()

    async def register_if_reachable(self) -> None:
        """Register this deployment if Restate can reach it, which it can; see `ensure_registered`."""
        await self.ensure_registered()

    async def take_over_gone(self) -> bool:
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
            await self._redirect_here(gone)
            await self._resume_stuck()
        return bool(gone)

    def watch(self) -> None:
        """Begin to look, now and then, whether the process that serves is still there. Call it on the loop."""
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await self.take_over_gone():
                    await self._on_taken_over()
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

    async def _newest(self) -> list[dict[str, Any]]:
        """To which deployment Restate sends what is new of each of our services: that of the latest revision."""
        latest: dict[str, tuple[int, dict[str, Any]]] = {}
        for deployment in await self._deployments():
            for service in deployment["services"]:
                name, revision = service["name"], service["revision"]
                if name in self._endpoint.service_names and revision > latest.get(name, (0, {}))[0]:
                    latest[name] = revision, deployment
        return [deployment for _, deployment in latest.values()]

    async def _receives_new(self) -> bool:
        serving = await self._newest()
        return bool(serving) and all(map(self._is_here, serving))

    async def _redirect_here(self, deployments: Collection[dict[str, Any]]) -> None:
        """Point deployments here, and have Restate read anew what is served. Each keeps a URI of its own: the endpoint
        does not care about what comes before its own paths."""
        in_use = {uri_of(each) for each in await self._admin.deployments()}
        for each in deployments:
            uri = uri_of(each)
            if not self._is_here(each):
                uri = self._endpoint.url if self._endpoint.url not in in_use else f"{self._endpoint.url}/{each['id']}"
            await self._admin.redirect(each["id"], uri)
            in_use.add(uri)

    async def _resume_stuck(self) -> None:
        """What waits for its next attempt here need not wait any longer."""
        await self._admin.resume_stuck(*(each["id"] for each in await self._deployments() if self._is_here(each)))

    async def _delete_unneeded(self) -> None:
        """Drop the deployments that processes of before have left and nothing needs."""
        needed = {each["id"] for each in await self._newest()} | await self._admin.in_use()
        for each in await self._deployments():
            if each["id"] not in needed:
                await self._admin.delete_deployment(each["id"])


def _services(deployment: dict[str, Any]) -> set[str]:
    return {service["name"] for service in deployment["services"]}


# ------------------------------------------------------------ whether a process lives


class Liveness:
    """Tells which of a session's deployments have lost their processes.

    Args:
        admin: whom to ask.
        local: whether Restate runs on this machine, and sees its loopback as this process does.
    """

    def __init__(self, admin: Admin, *, local: bool) -> None:
        self._admin = admin
        self._local = local
        self._failed: dict[str, int] = {}  # looks in a row, by deployment

    async def gone(self, deployments: Iterable[dict[str, Any]], ours: Collection[str]) -> list[dict[str, Any]]:
        """Those whose process is gone: nobody listens there, it is somebody else, or it failed several times.

        Args:
            deployments: as the admin interface lists them.
            ours: the names of services of which a process of the session serves some.

        Raises:
            ServerError: Restate itself does not answer.
        """
        asked = list(deployments)
        lost = await asyncio.gather(*(self._is_gone(each, ours) for each in asked))
        return [each for each, is_lost in zip(asked, lost, strict=True) if is_lost]

    async def _is_gone(self, deployment: dict[str, Any], ours: Collection[str]) -> bool:
        uri, key = uri_of(deployment), str(deployment["id"])
        if not uri:  # it is called in another way than by HTTP, and not by us
            return False
        if self._local and await is_refused_here(uri):
            return True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                served = await self._admin.discover(uri)
        except TimeoutError:
            return False  # it takes connections and is busy, or stopped: it may go on at any moment
        except Rejected as error:
            self._failed[key] = self._failed.get(key, 0) + 1
            return _NOBODY_LISTENS in error.reason or self._failed[key] >= _FAILED_LOOKS
        self._failed.pop(key, None)
        return not served & set(ours)


def uri_of(deployment: dict[str, Any]) -> str:
    """Where a deployment is, without a slash at the end; empty for one that is not called by HTTP."""
    return str(deployment.get("uri") or "").rstrip("/")


def is_within(uri: str, place: str) -> bool:
    """Whether a URI is this place, or has a path of its own within it."""
    at, within = _parts(uri), _parts(place)
    return at[:3] == within[:3] and (at[3] == within[3] or at[3].startswith(within[3] + "/"))


def _parts(uri: str) -> tuple[str, str, int, str]:
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0), parts.path.rstrip("/")


async def is_refused_here(uri: str) -> bool:
    """Whether it is a port of this machine's loopback at which nobody listens: a quick answer, the same for Restate."""
    _, host, port, _ = _parts(uri)
    try:
        if not ipaddress.ip_address(host).is_loopback:
            return False
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(host, port)
    except ValueError:  # a name
        return False
    except OSError as error:  # TimeoutError is one
        return error.errno == errno.ECONNREFUSED
    writer.transport.abort()
    return False
