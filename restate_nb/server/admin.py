"""Deployments, invocations and SQL: the server's admin interface."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Self, TypeVar

import msgspec

from restate_nb.server.address import Address
from restate_nb.server.http import (
    DEFAULT_PATIENCE,
    WHO_ANSWERS,
    Answer,
    BadAnswer,
    HttpClient,
    Rejected,
    UnknownInvocation,
    is_503,
    segment,
)
from restate_nb.server.secret import Secret

T = TypeVar("T")

MAX_ROWS_BYTES = 1 << 30  # of an SQL query; the items of a large job come back as rows
AT_ONCE = 50  # requests, where one is needed for each of many invocations

_PASSES = re.compile(
    r"External error"  # of a partition or a node, not of the query: not up yet, moved, or its connection broke
    r"|Internal error: [^\n]*([Ss]canner|[Cc]onnection|locate target nodes)"  # the part of a query at another node
)
"""What a 500 of a query says that will pass: at a start, and while a partition of a cluster changes its leader."""


def sql_literal(value: str | int | float | bool | None) -> str:
    """A value as a literal of the server's SQL, safely quoted.

    Raises:
        TypeError: of another type, or a number that is not finite.

    Example:
        >>> sql_literal("it's")
        "'it''s'"
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, (int, float)) and float("-inf") < value < float("inf"):
        return repr(value)
    raise TypeError(f"{value!r} cannot be written in SQL.")


async def order_all(order: Callable[[str], Awaitable[bool]], invocation_ids: Iterable[str]) -> int:
    """Give an order to each of many invocations, and return how many took it.

    The orders are sent in the order of the ids, `AT_ONCE` of them open at a time. Invocations that the server does not
    know (any more) are passed over; any other error is raised, and the remaining orders are not waited for.

    Args:
        order: takes the id of an invocation and says whether it had an effect, such as `admin.cancel`.
        invocation_ids: of the invocations.

    Raises:
        ServerError: as `order` does.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def give(invocation_id: str) -> bool:
        async with slots:
            try:
                return await order(invocation_id)
            except UnknownInvocation:
                return False

    return sum(await asyncio.gather(*map(give, invocation_ids)))


class Admin:
    """The server's admin interface. It belongs to the event loop on which it is first used.

    Every request is repeated for up to `patience` seconds (None for ever) while the server does not answer.

    Args:
        address: where the server listens for administration.
        token: is sent as a bearer token, for a server that asks for one.
        patience: seconds to go on trying; None for ever.

    Attributes:
        address: where the server listens for administration.
        patience: see there.
        http: sends its requests.
    """

    def __init__(
        self, address: Address, *, token: Secret | None = None, patience: float | None = DEFAULT_PATIENCE
    ) -> None:
        self.address = address
        self.patience = patience
        self.http = HttpClient(address, health="/health", token=token, longest=MAX_ROWS_BYTES)

    async def version(self) -> str:
        """The server's version, such as `1.7.12`.

        Raises:
            Unreachable: the server did not answer.
        """
        return (await self._ask("GET", "/version", _Version)).version

    async def deployments(self) -> list[dict[str, Any]]:
        """All deployments: `id`, `uri`, `created_at`, `services` (each with `name` and `revision`) and more.

        Raises:
            Unreachable: the server did not answer.
        """
        return (await self._ask("GET", "/deployments", _Deployments)).deployments

    async def point(self, service_names: Collection[str], uri: str) -> str:
        """Have these services served by the endpoint at `uri`, and return the deployment's id.

        A deployment that serves them is pointed to the new place, so that its unfinished invocations go on there, and
        its handlers are read anew. Else one is made. The endpoint must answer already.

        Args:
            service_names: what the endpoint serves.
            uri: of the endpoint, such as `http://127.0.0.1:40123`.

        Raises:
            Rejected: the server cannot reach the endpoint, or does not accept what it serves.
            Unreachable: the server did not answer.
        """
        deployments = await self.deployments()
        serving = _deployments_of(deployments, service_names)
        pointed, place = "", _unshared_uri(deployments, service_names, uri)
        for known in sorted(serving, key=lambda known: str(known["created_at"])):  # the latest last: it serves new ones
            pointed = str(known["id"])
            await self.redirect(pointed, place)
        return pointed or await self.register(service_names, uri)

    async def register(self, service_names: Collection[str], uri: str) -> str:
        """Have new invocations of these services go to the endpoint at `uri`, and return its deployment's id.

        Those that another deployment has begun stay there. The endpoint must answer already. For the arguments and the
        errors see `point`.
        """
        place = _unshared_uri(await self.deployments(), service_names, uri)
        return (await self._ask("POST", "/deployments", _Deployment, {"uri": place, "force": True})).id

    async def redirect(self, deployment_id: str, uri: str) -> None:
        """Have a deployment's invocations go to the endpoint at `uri`, and read anew what it serves.

        Raises:
            Rejected: there is no such deployment, or see `point`.
            Unreachable: the server did not answer.
        """
        changed = {"uri": uri, "overwrite": True}
        await self._ask("PATCH", f"/deployments/{segment(deployment_id)}", _Anything, changed)

    async def discover(self, uri: str) -> set[str]:
        """The names of the services that an endpoint serves, as the server finds them there. Nothing is registered.

        Raises:
            Rejected: the server cannot reach the endpoint, or it is none.
            Unreachable: the server itself did not answer.
        """
        asked = {"uri": uri, "force": True, "dry_run": True}
        return {each.name for each in (await self._ask("POST", "/deployments", _Discovered, asked)).services}

    async def in_use(self) -> set[str]:
        """The ids of deployments that have unfinished invocations.

        Raises:
            Unreachable: the server did not answer.
        """
        rows = await self.query(
            "SELECT DISTINCT pinned_deployment_id AS id FROM sys_invocation "
            "WHERE status != 'completed' AND pinned_deployment_id IS NOT NULL",
            texts=["id"],
        )
        return {str(row["id"]) for row in rows}

    async def delete_deployment(self, deployment_id: str) -> None:
        """Remove a deployment, and the services that only it serves; its unfinished invocations can never go on.

        Raises:
            Rejected: there is no such deployment.
            Unreachable: the server did not answer.
        """
        await self._ask("DELETE", f"/deployments/{segment(deployment_id)}?force=true", _Anything)

    async def resume_stuck(self, *deployment_ids: str, paused: bool = True) -> int:
        """Let invocations that wait for their next attempt go on at once, and return how many there were.

        For the moment after `point`: without it each waits for the end of its back-off.

        Args:
            deployment_ids: whose invocations.
            paused: whether those count that are paused, by hand or because their attempts were used up.

        Raises:
            Unreachable: the server did not answer.
        """
        if not deployment_ids:
            return 0
        deployments = ", ".join(map(sql_literal, deployment_ids))
        states = "'backing-off', 'paused'" if paused else "'backing-off'"
        rows = await self.query(
            f"SELECT i.id FROM sys_invocation i LEFT JOIN sys_service s ON s.name = i.target_service_name "
            f"WHERE i.status IN ({states}) AND (i.pinned_deployment_id IN ({deployments}) "
            f"OR (i.pinned_deployment_id IS NULL AND s.deployment_id IN ({deployments})))",
            texts=["id"],
        )
        return await order_all(self.resume, [str(row["id"]) for row in rows])

    async def query(self, sql: str, texts: Collection[str] = ()) -> list[dict[str, Any]]:
        """The rows that an SQL query gives. Quote values with `sql_literal`.

        Args:
            sql: the query.
            texts: columns that hold a text in every row.

        Raises:
            Rejected: the query is not valid.
            Unreachable: the server did not answer.
            BadAnswer: a row has no text in such a column.
        """
        rows = (await self._ask("POST", "/query", _Rows, {"query": sql}, busy=_cannot_query_yet)).rows
        for column in texts:
            if not all(isinstance(row.get(column), str) for row in rows):
                raise BadAnswer(f"Asked for rows, the server gave some without a text in {column!r}. {WHO_ANSWERS}")
        return rows

    async def invocation(self, invocation_id: str) -> dict[str, Any] | None:
        """The row of `sys_invocation` for this invocation; None when there is none.

        Raises:
            Unreachable: the server did not answer.
        """
        rows = await self.query(f"SELECT * FROM sys_invocation WHERE id = {sql_literal(invocation_id)}")
        return rows[0] if rows else None

    async def cancel(self, invocation_id: str) -> bool:
        """Ask an invocation to end: it gets a terminal error with code 409. Says whether it was still unfinished.

        Raises:
            UnknownInvocation: there is none. So do `kill`, `purge`, `pause` and `resume`.
            Unreachable: the server did not answer.
        """
        return await self._give_order(invocation_id, "cancel")

    async def cancel_all(self, invocation_ids: Iterable[str]) -> int:
        """Cancel many invocations; see `order_all`."""
        return await order_all(self.cancel, invocation_ids)

    async def kill(self, invocation_id: str) -> bool:
        """End an invocation at once, without its handler's consent. Says whether it was still unfinished."""
        return await self._give_order(invocation_id, "kill")

    async def purge(self, invocation_id: str) -> bool:
        """Forget a finished invocation and its result. Says whether it was finished."""
        return await self._give_order(invocation_id, "purge")

    async def pause(self, invocation_id: str) -> bool:
        """Stop an invocation after the step that runs. Says whether it was running."""
        return await self._give_order(invocation_id, "pause")

    async def resume(self, invocation_id: str) -> bool:
        """Let an invocation go on at once that is paused or waits for its next attempt. Says whether it was one."""
        return await self._give_order(invocation_id, "resume")

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        return await self.http.healthy()

    async def close(self) -> None:
        """Close all connections."""
        await self.http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _give_order(self, invocation_id: str, verb: str) -> bool:
        answer = await self._request("PATCH", f"/invocations/{segment(invocation_id)}/{verb}")
        if answer.status == 409:
            return False
        if answer.status in (400, 404):
            raise UnknownInvocation(f"There is no invocation {invocation_id} to {verb}: {answer.reason}")
        _raise_if_refused(answer, f"to {verb} {invocation_id}")
        return True

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: Mapping[str, Any] | None = None,
        busy: Callable[[Answer], bool] = is_503,
    ) -> T:
        answer = await self._request(method, path, body, busy)
        _raise_if_refused(answer, f"{method} {path}")
        try:
            return msgspec.json.decode(answer.body or b"{}", type=kind)
        except (ValueError, RecursionError):
            raise BadAnswer(f"Asked {method} {path}, the server gave {answer.description()}. {WHO_ANSWERS}") from None

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, busy: Callable[[Answer], bool] = is_503
    ) -> Answer:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body).encode()
        return await self.http.request(method, path, body=content, headers=headers, patience=self.patience, busy=busy)


class _Anything(msgspec.Struct):
    """An answer of which nothing is needed."""


class _Version(msgspec.Struct):
    version: str


class _Deployment(msgspec.Struct):
    id: str


class _Served(msgspec.Struct):
    name: str


class _Discovered(msgspec.Struct):
    services: list[_Served]


class _Deployments(msgspec.Struct):
    deployments: list[dict[str, Any]]

    def __post_init__(self) -> None:
        msgspec.convert(self.deployments, list[_Known])


class _Service(msgspec.Struct):
    name: str
    revision: int


class _Known(msgspec.Struct):
    id: str
    created_at: str
    services: list[_Service]
    uri: str = ""


class _Rows(msgspec.Struct):
    rows: list[dict[str, Any]]


def _deployments_of(deployments: list[dict[str, Any]], service_names: Collection[str]) -> list[dict[str, Any]]:
    wanted = set(service_names)
    return [known for known in deployments if wanted & {service["name"] for service in known["services"]}]


def _unshared_uri(deployments: list[dict[str, Any]], service_names: Collection[str], uri: str) -> str:
    """Where these services are registered. A port may be reused by another session: a registration at a known URI would
    change, or be, that deployment; the endpoint does not care about what comes before its own paths."""
    ids = {known["id"] for known in _deployments_of(deployments, service_names)}
    uri = uri.rstrip("/")
    if all(known.get("uri", "").rstrip("/") != uri for known in deployments if known["id"] not in ids):
        return uri
    return f"{uri}/{hashlib.sha256(repr(sorted(set(service_names))).encode()).hexdigest()[:12]}"


def _raise_if_refused(answer: Answer, request: str) -> None:
    if answer.status >= 300:
        raise Rejected(request, answer.status, answer.reason)


def _cannot_query_yet(answer: Answer) -> bool:
    """Whether the server, or a node of its cluster, will answer this query soon. A wrong query gets a 400 or 500, too.
    429 is the bound that an operator can set on queries."""
    return answer.status in (429, 503) or (answer.status == 500 and _PASSES.search(answer.reason) is not None)
