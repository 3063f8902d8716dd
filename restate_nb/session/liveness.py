"""Whether the process behind a deployment lives: Restate is asked, whose word counts, since it calls the deployment.

An address may be valid only where Restate is (a container's, a service name of a cluster), or hidden behind a proxy,
and a packet that is lost on the way from here says nothing. So Restate is asked to read what is served there, as it
does to register a deployment, without registering one: 10 ms where somebody lives, 1.8 s where nobody listens.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Collection, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from restate_nb.server.admin import Admin
from restate_nb.server.http import Rejected

_ANSWER_SECONDS: Final = 5.0
_LOOKS: Final = 3
"""Failed looks in a row until a process counts as gone, where Restate does not say that nobody listens there."""

_NOBODY_LISTENS: Final = "Connection refused"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


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
        if self._local and await _is_refused_here(uri):
            return True
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                served = await self._admin.discover(uri)
        except TimeoutError:
            return False  # it takes connections and is busy, or stopped: it may go on at any moment
        except Rejected as error:
            self._failed[key] = self._failed.get(key, 0) + 1
            return _NOBODY_LISTENS in error.reason or self._failed[key] >= _LOOKS
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


async def _is_refused_here(uri: str) -> bool:
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
