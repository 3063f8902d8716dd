"""Submit invocations, and get their results."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self
from urllib.parse import quote

from restate_nb.errors import InvalidInput, InvocationFailed
from restate_nb.server.address import Address
from restate_nb.server.http import (
    DEFAULT_PATIENCE,
    WHO_ANSWERS,
    Answer,
    BadAnswer,
    HttpClient,
    Rejected,
    UnknownInvocation,
    segment,
)
from restate_nb.server.secret import Secret

_SETTLING: Final = 1.0
"""Seconds. A server that has just started may not have read yet which services there are (a node of a cluster takes
half a second for it), and says of all that they do not exist."""
_LONGEST_SETTLING: Final = 10.0
"""Seconds, for a service that this client has seen there."""
_SETTLING_POLL: Final = 0.05

_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of an invocation.

    Attributes:
        invocation_id: which invocation.
        body: what its handler returned.
        content_type: of the body; empty when there is none.
        again: whether the invocation had ended before it was asked for.
    """

    invocation_id: str
    body: bytes = field(repr=False)
    content_type: str = ""
    again: bool = False


def written_key(key: str) -> str:
    """An idempotency key as the server gets it and `sys_invocation.idempotency_key` shows it.

    The server takes printable ASCII only, and HTTP trims blanks at the ends: everything else is percent-encoded. A
    plain key without `%` stays as it is.

    Raises:
        InvalidInput: the key is empty.
    """
    if not key:
        raise InvalidInput("An idempotency key must not be empty.")
    return re.sub("^ +| +$", lambda blanks: "%20" * len(blanks[0]), quote(key, safe=_PLAIN))


class Ingress:
    """The server's interface for invocations. It belongs to the event loop on which it is first used.

    While the server cannot be reached, requests that can be repeated safely are repeated for up to `patience` seconds
    (None for ever): those with an idempotency key, and all that only ask. A connection that was attached meanwhile does
    not count towards it.

    Args:
        address: where the server listens for invocations.
        token: is sent as a bearer token, for a server that asks for one.
        longest_patience: seconds that stand for `None` where requests would be repeated for ever.

    Attributes:
        http: sends its requests.

    Example:
        >>> async def greet(address: Address) -> bytes:
        ...     async with Ingress(address) as ingress:
        ...         return await ingress.call("Greeter", "greet", b'"Ada"')
    """

    def __init__(self, address: Address, *, token: Secret | None = None, longest_patience: float | None = None) -> None:
        self.http = HttpClient(address, health="/restate/health", token=token, patience=longest_patience)
        self._seen: set[str] = set()

    async def send(
        self,
        service: str,
        handler: str,
        body: bytes,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        delay: float | timedelta | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float | None = DEFAULT_PATIENCE,
        repeatable: bool = False,
    ) -> str:
        """Submit an invocation without waiting for its result, and return its id.

        Args:
            service: the service's name.
            handler: the handler's name.
            body: the input, as JSON unless `headers` name another content type.
            key: of the virtual object or workflow.
            idempotency_key: a second submission with the same key is the same invocation, whatever its input.
            delay: seconds (or a timedelta) until it starts.
            headers: further headers.
            patience: seconds to go on trying while the server does not answer; None for ever.
            repeatable: that sending twice is sending once, as for the run of a workflow.

        Raises:
            Rejected: the server refused it: no such service or handler, or the body is too large (413).
            Unreachable: the server did not answer.
        """
        path = f"/restate/send/{_target(service, handler, key)}"
        if delay is not None:
            seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
            path += f"?delay={round(seconds * 1000)}ms"
        answer = await self._submit(
            service, path, body, idempotency_key, headers, patience=patience, repeatable=repeatable
        )
        if answer.status >= 300:
            raise Rejected(f"to send to {service}/{handler}", answer.status, answer.reason)
        return str(answer.json(f"to send to {service}/{handler}", "invocationId"))

    async def call(
        self,
        service: str,
        handler: str,
        body: bytes,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float | None = DEFAULT_PATIENCE,
    ) -> bytes:
        """Submit an invocation and wait for its result. The arguments are those of `send`.

        Raises:
            InvocationFailed: the invocation ended with an error.
            Rejected: the server refused it.
            Unreachable: the server did not answer, or the connection broke and there is no idempotency key.
        """
        reply = await self.invoke(
            service, handler, body, key=key, idempotency_key=idempotency_key, headers=headers, patience=patience
        )
        return reply.body

    async def invoke(
        self,
        service: str,
        handler: str,
        body: bytes,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float | None = DEFAULT_PATIENCE,
    ) -> Reply:
        """Like `call`, and tell which invocation it was."""
        path = f"/restate/call/{_target(service, handler, key)}"
        answer = await self._submit(service, path, body, idempotency_key, headers, patience=patience)
        return _reply(answer, f"to call {service}/{handler}")

    async def attach(
        self,
        service: str,
        handler: str,
        idempotency_key: str,
        key: str | None = None,
        *,
        patience: float | None = None,
    ) -> bytes:
        """Wait for the result of the invocation with this idempotency key, however long it takes.

        Raises:
            InvocationFailed: the invocation ended with an error.
            UnknownInvocation: there is none.
            Unreachable: the server did not answer for `patience` seconds.
        """
        return await self._attach(_by_key(service, handler, idempotency_key, key), patience)

    async def attach_id(self, invocation_id: str, *, patience: float | None = None) -> bytes:
        """Wait for the result of this invocation; see `attach`."""
        return await self._attach(invocation_id, patience)

    async def attach_reply(self, invocation_id: str, *, patience: float | None = None) -> Reply:
        """Like `attach_id`, and tell what else the answer says."""
        return await self._attached(invocation_id, patience)

    async def lookup(self, service: str, handler: str, idempotency_key: str, key: str | None = None) -> str:
        """The id that the invocation with this idempotency key has, or would have.

        Raises:
            Rejected: there is no such service or handler.
            Unreachable: the server did not answer.
        """
        answer = await self._ask("lookup", _by_key(service, handler, idempotency_key, key), DEFAULT_PATIENCE)
        if answer.status >= 300:
            raise Rejected(f"to look up an invocation of {service}/{handler}", answer.status, answer.reason)
        return str(answer.json("to look up an invocation", "invocationId"))

    async def services(self, *, patience: float | None = DEFAULT_PATIENCE) -> list[str]:
        """The names of the services that can be called.

        Raises:
            Rejected: the server does not let us in.
            Unreachable: the server did not answer.
        """
        answer = await self.http.request("GET", "/restate/health", patience=patience, busy=_is_busy)
        if answer.status != 200:
            raise Rejected("to say how it is", answer.status, answer.reason)
        names = answer.json("how it is", "services")
        if not isinstance(names, list):
            raise BadAnswer(f"Asked how it is, the server gave {answer.description()}. {WHO_ANSWERS}")
        self._seen.update(map(str, names))
        return [str(name) for name in names]

    async def is_current(self) -> bool:
        """Whether the server is new enough to say where an error comes from, which restate-server 1.7 and later do."""
        answer = await self.http.request("GET", "/restate/output/inv_none", busy=_is_busy)
        return "x-restate-error-source" in answer.headers

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

    async def _submit(
        self,
        service: str,
        path: str,
        body: bytes,
        idempotency_key: str | None,
        headers: Mapping[str, str] | None,
        *,
        patience: float | None,
        repeatable: bool = False,
    ) -> Answer:
        # A handler without input accepts neither a body nor a content type.
        sent = {"Content-Type": "application/json", **(headers or {})} if body else dict(headers or {})
        if idempotency_key is not None:
            sent["Idempotency-Key"] = written_key(idempotency_key)
        missing_since: float | None = None
        while True:
            answer = await self.http.request(
                "POST",
                path,
                body=body or None,
                headers=sent,
                repeatable=repeatable or idempotency_key is not None,
                patience=patience,
                busy=_is_busy,
            )
            if not _is_not_there(answer):
                if answer.status < 300 or _from_invocation(answer):
                    self._seen.add(service)
                return answer
            now = time.monotonic()
            missing_since = now if missing_since is None else missing_since
            was_there = service in self._seen and f"service '{service}' not found" in answer.reason
            settling = _LONGEST_SETTLING if was_there else _SETTLING
            if now - missing_since >= (settling if patience is None else min(settling, patience)):
                return answer
            await asyncio.sleep(_SETTLING_POLL)  # nothing was taken, so that this is no second submission

    async def _attach(self, target: str | dict[str, str], patience: float | None) -> bytes:
        return (await self._attached(target, patience)).body

    async def _attached(self, target: str | dict[str, str], patience: float | None) -> Reply:
        answer = await self._ask("attach", target, patience)
        if answer.status == 404 and answer.reason == "not found":
            # The same answer for an invocation that failed with these words and for one that does not exist.
            answer = await self._ask("output", target, patience)
        return _reply(answer, "to attach", target)

    async def _ask(self, verb: str, target: str | dict[str, str], patience: float | None) -> Answer:
        if isinstance(target, str):
            return await self.http.request(
                "GET", f"/restate/{verb}/{segment(target)}", patience=patience, busy=_is_busy
            )
        return await self.http.request(
            "POST",
            f"/restate/{verb}",
            body=json.dumps(target).encode(),
            headers={"Content-Type": "application/json"},
            patience=patience,
            busy=_is_busy,
        )


def _target(service: str, handler: str, key: str | None) -> str:
    parts = (service, handler) if key is None else (service, key, handler)
    return "/".join(map(segment, parts))


def _by_key(service: str, handler: str, idempotency_key: str, key: str | None) -> dict[str, str]:
    target = {
        "target": "idempotentInvocation",
        "service": service,
        "handler": handler,
        "idempotencyKey": written_key(idempotency_key),
    }
    return target if key is None else {**target, "key": key}


def _from_invocation(answer: Answer) -> bool:
    return answer.headers.get("x-restate-error-source", "").lower() == "invocation"


def _is_not_there(answer: Answer) -> bool:
    """Whether the server knows no such service or handler."""
    return answer.status == 404 and answer.headers.get("x-restate-error-source", "").lower() == "ingress"


def _is_busy(answer: Answer) -> bool:
    """The trouble of the server, or of a proxy before it, passes; a handler's error of that code is its result.

    500 is not among them: the server has it for requests that are wrong for ever.
    """
    return answer.status in (502, 503, 504) and not _from_invocation(answer)


def _reply(answer: Answer, request: str, target: str | Mapping[str, str] | None = None) -> Reply:
    headers = answer.headers
    if answer.status == 200:
        again = "idempotency-expires" in headers
        return Reply(headers.get("x-restate-id", ""), answer.body, headers.get("Content-Type", ""), again)
    if _from_invocation(answer):
        raise InvocationFailed(answer.status, answer.reason, headers.get("x-restate-id", "unknown"))
    if target is not None and answer.status in (400, 404):
        name = target if isinstance(target, str) else f"with the idempotency key {target['idempotencyKey']!r}"
        raise UnknownInvocation(
            f"There is no invocation {name} ({answer.reason}): it was never submitted, or its result is no longer kept."
        )
    raise Rejected(request, answer.status, answer.reason)
