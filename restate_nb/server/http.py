"""HTTP to the server: one client for both interfaces, which repeats requests while the server restarts."""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from restate_nb.errors import ServerError
from restate_nb.server.address import Address
from restate_nb.server.secret import Secret

CONNECT_TIMEOUT = 5.0  # seconds; the answer itself may take for ever
SILENCE_TIMEOUT = 300.0  # then a waiting request is sent anew: a network may drop an idle connection without a word
PROBE_TIMEOUT = 2.0  # a server that is stopped takes the connection and does not answer
STREAMED_BYTES = 1 << 20  # larger bodies are written in pieces, so that the event loop is not held up
FIRST_WAIT = 0.02
LONGEST_WAIT = 1.0
BODY_TIMEOUT = 120.0  # seconds for an answer that has begun
MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes; restate-server itself moves at most 32 MiB
DEFAULT_PATIENCE = 30.0


_SHOWN = 500  # bytes of an answer
_LONGEST_REASON = 2_000  # characters
WHO_ANSWERS: Final = "Is it Restate that answers there, or a proxy or a login page? Check the address."

_jitter = random.Random()  # our own: a user's seeded numbers must not depend on what the network did


class Unreachable(ServerError):
    """The server did not answer for as long as the caller was ready to wait."""


class Rejected(ServerError):
    """The server refused a request.

    Attributes:
        status: HTTP's status code.
        reason: what the server said.
    """

    def __init__(self, request: str, status: int, reason: str) -> None:
        super().__init__(f"restate-server refused {request} with status {status}: {reason}")
        self.status = status
        self.reason = reason


class BadAnswer(ServerError):
    """What came back is no answer of Restate, or larger than any: something else answers at that address."""


class UnknownInvocation(ServerError, LookupError):
    """No such invocation: never submitted, or its result is no longer kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of the server."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    secret: Secret | None = None

    @property
    def reason(self) -> str:
        """What an answer that reports an error says, without the token."""
        try:
            says = str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            says = self.body[:_SHOWN].decode(errors="replace")
        return says[:_LONGEST_REASON] if self.secret is None else self.secret.hide(says)[:_LONGEST_REASON]

    def json(self, request: str, *names: str) -> Any:
        """The JSON of an answer, or the field of it that the names lead to.

        Args:
            request: what was asked for, for the message.
            names: of fields, from the outermost.

        Raises:
            BadAnswer: it is no JSON, or has no such field.
        """
        try:
            found = json.loads(self.body or b"{}")
            for name in names:
                found = found[name]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadAnswer(f"Asked {request}, the server gave {self.description()}. {WHO_ANSWERS}") from None
        return found

    def description(self) -> str:
        """What kind of answer it is, and how it begins."""
        kind = self.headers.get("Content-Type", "no content type")
        begins = self.body[:_SHOWN].decode(errors="replace")
        if self.secret is not None:
            kind, begins = self.secret.hide(kind), self.secret.hide(begins)
        return (
            f"no answer of Restate, but status {self.status}, {kind[:80]}, {len(self.body):,} bytes: {begins[:120]!r}"
        )


def is_503(answer: Answer) -> bool:
    """Whether the server says that it cannot answer yet."""
    return answer.status == 503


def segment(text: str) -> str:
    """Any text as one segment of a path, percent-encoded; dots too, or `..` would be taken for a step up."""
    return quote(text, safe="").replace(".", "%2E")


class _Repeats:
    """The pauses before a request is sent again, up to so many seconds after the server was there last."""

    def __init__(self, address: Address, patience: float | None) -> None:
        self._address = address
        self._patience = patience
        self._pause = FIRST_WAIT
        self.silent_since = time.monotonic()

    async def wait(self, problem: str) -> None:
        """Wait, each time a little longer.

        Args:
            problem: why the request is sent again.

        Raises:
            Unreachable: patience is at its end.
        """
        elapsed = time.monotonic() - self.silent_since
        if self._patience is not None and elapsed >= self._patience:
            raise Unreachable(
                f"restate-server at {self._address} did not serve the request within {elapsed:.0f} s ({problem}). "
                f"Check that it runs; a local one is started with restate_nb.start()."
            )
        pause = self._pause * _jitter.uniform(0.7, 1.3)
        await asyncio.sleep(pause if self._patience is None else min(pause, self._patience - elapsed))
        self._pause = min(self._pause * 1.6, LONGEST_WAIT)


class HttpClient:
    """Requests to one address. It belongs to the event loop on which it is first used.

    Args:
        address: where the server is.
        health: the path that answers 200 while the server does.
        token: is sent as a bearer token, for a server that asks for one.
        longest: the most bytes that an answer may have.
        patience: seconds to go on trying where the caller would for ever; None for ever.

    Attributes:
        address: where the server is.
        longest: the most bytes that an answer may have.
    """

    def __init__(
        self,
        address: Address,
        *,
        health: str,
        token: Secret | None = None,
        longest: int = MAX_ANSWER,
        patience: float | None = None,
    ) -> None:
        self.address = address
        self._health = health
        self._secret = token
        self.longest = longest
        self._patience = patience
        self._headers = {} if token is None else {"Authorization": token.header()}
        if address.socket is not None:
            self._headers["Accept-Encoding"] = "identity"  # nothing is gained by compressing for one's own machine
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
        patience: float | None = DEFAULT_PATIENCE,
        busy: Callable[[Answer], bool] = is_503,
    ) -> Answer:
        """Send a request and read the whole answer.

        While the server is not reachable (being restarted, say) the request is sent again, less and less often.

        Args:
            method: of HTTP.
            path: from the root, percent-encoded.
            body: what to send.
            headers: besides the token.
            repeatable: whether sending it twice does no harm. When not, it is repeated only if it was never sent.
            patience: seconds to go on trying while the server does not answer; None for ever.
            busy: tells an answer by which the server says that it cannot answer yet.

        Raises:
            Unreachable: patience is at its end, or the connection broke and the request is not repeatable.
            BadAnswer: the answer is too large.
        """
        patience = self._patience if patience is None else patience
        url = URL(self.address.url.rstrip("/") + path, encoded=True)
        repeats = _Repeats(self.address, patience)
        silence = SILENCE_TIMEOUT if patience is None else min(SILENCE_TIMEOUT, max(patience, PROBE_TIMEOUT))
        while True:
            sent = time.monotonic()
            if self._closed:
                raise Unreachable("The session was stopped, and with it its connections to Restate.")
            try:
                answer = await self._once(method, url, body, headers, silence if repeatable else None)
                if not (repeatable and busy(answer)):
                    return answer
                problem = f"it answers {answer.status}: {answer.reason}"
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                problem = self._text_of(error)  # refused, no such file, or no answer: nothing was sent
            except aiohttp.SocketTimeoutError:  # only where it is repeatable
                if patience is None or await self.healthy():
                    repeats.silent_since = time.monotonic()
                    continue  # it takes its time; a fresh connection finds out whether the server lives
                problem = "it takes connections and does not answer: it hangs, or its process is stopped"
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
                problem = self._text_of(error)
                if not repeatable:
                    raise Unreachable(
                        f"The connection to restate-server at {self.address} broke ({problem}); whether it took the "
                        f"request is unknown."
                    ) from None  # the frames of the client have the request's headers in their variables
                lasted = time.monotonic() - sent > LONGEST_WAIT  # then it was there until now
                if lasted and not isinstance(error, aiohttp.ClientPayloadError):
                    repeats = _Repeats(self.address, patience)
            await repeats.wait(problem)

    def _text_of(self, error: Exception) -> str:
        """The text of an error, without the token: what a server answers may be in it, however long."""
        says = str(error) or type(error).__name__
        return says[:_LONGEST_REASON] if self._secret is None else self._secret.hide(says)[:_LONGEST_REASON]

    async def healthy(self) -> bool:
        """Whether the server answers now."""
        url = URL(self.address.url.rstrip("/") + self._health, encoded=True)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return (await self._once("GET", url, None, None, PROBE_TIMEOUT)).status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def _once(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str] | None, silence: float | None
    ) -> Answer:
        data = body if body is None or len(body) < STREAMED_BYTES else io.BytesIO(body)
        # No bound on the whole: an attached request is answered when the invocation ends, days later perhaps.
        timeout = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)
        async with self._open().request(
            method, url, data=data, headers=headers, allow_redirects=False, timeout=timeout
        ) as response:
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    body = await self._body(response)
            except TimeoutError:
                raise aiohttp.ClientPayloadError(
                    f"the answer began, and was not complete {BODY_TIMEOUT:g} s later"
                ) from None
            return Answer(response.status, response.headers, body, self._secret)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        length = response.content_length
        if length is not None and length <= self.longest and "Content-Encoding" not in response.headers:
            return await response.read()
        parts = bytearray()
        if length is None or length <= self.longest:
            async for part in response.content.iter_any():
                parts += part
                if len(parts) > self.longest:
                    break
            else:
                return bytes(parts)
        raise BadAnswer(
            f"The server at {self.address} gave an answer of more than {self.longest >> 20} MiB. {WHO_ANSWERS}"
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = (
                aiohttp.TCPConnector(limit=0, ssl=True if self.address.tls is None else self.address.tls)
                if self.address.socket is None
                else aiohttp.UnixConnector(str(self.address.socket), limit=0)
            )
            self._session = aiohttp.ClientSession(
                skip_auto_headers=["Content-Type"],  # a request without a body must not name one
                connector=connector,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        """Close all connections, for good; whatever waits on one gets an error."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
