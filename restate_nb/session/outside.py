"""Jobs as another process sees them: what Restate has of all of them, and what the kernels that run them say.

Nothing of a session is opened for it: no endpoint, no jobs, no loop of its own.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from restate_nb.backends.job_store import read_manifests
from restate_nb.errors import InvalidInput, InvocationFailed, ServerError
from restate_nb.server.admin import Admin
from restate_nb.server.http import Rejected
from restate_nb.server.ingress import Ingress
from restate_nb.service.outside import LIVE_HANDLER, STEER_HANDLER, LiveJob, Order, Verb, live_decoder
from restate_nb.service.wire import Manifest, decode_received, encode, items_service, workers_of
from restate_nb.session.deployments import is_refused_here, uri_of

ANSWER_SECONDS: Final = 5.0
STEER_SECONDS: Final = 30.0
"""How long a kernel may take to answer, and to do what it is told: one whose items hold the interpreter is slow."""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job as it is seen from another process.

    Attributes:
        session: whose it is.
        manifest: its record in Restate.
        live: what the kernel says that runs it; None where none does, or where it does not answer.
    """

    session: str
    manifest: Manifest
    live: LiveJob | None

    @property
    def status(self) -> str:
        """In a word: as `Job.status` has it, or `unfinished` where nobody runs it."""
        if self.live is not None:
            return self.live.status
        summary = self.manifest.summary
        if summary is None:
            return "paused" if self.manifest.paused else "unfinished"
        return "cancelled" if summary.cancelled else "finished"


class Onlooker:
    """Sees and steers the jobs of a Restate, from a process that runs none of them."""

    def __init__(self, admin: Admin, ingress: Ingress, *, local: bool) -> None:
        """`local`: whether its kernels are on this machine."""
        self._admin = admin
        self._ingress = ingress
        self._local = local

    async def jobs(self) -> list[SeenJob]:
        """All jobs, the latest first.

        Raises:
            ServerError: Restate does not answer.
        """
        manifests = await read_manifests(self._admin)
        kernels = {_kernel_of(session) for session, each in manifests if each.unfinished}
        answers = await asyncio.gather(*map(self._live_of, kernels))
        live = {
            (session, job.name, job.generation): job
            for session, jobs in zip(kernels, answers, strict=True)
            for job in jobs or ()
        }
        seen = [
            SeenJob(session, each, live.get((_kernel_of(session), each.name, each.generation)))
            for session, each in manifests
        ]
        return sorted(seen, key=lambda each: -each.manifest.created)

    async def find(self, name: str, session: str | None = None) -> SeenJob:
        """The job of that name; the one that runs, where several sessions have one.

        Raises:
            InvalidInput: there is none, or several run.
            ServerError: Restate does not answer.
        """
        jobs = await self.jobs()
        found = [each for each in jobs if each.manifest.name == name and session in (None, each.session)]
        if len(found) > 1:
            running = [each for each in found if each.live is not None and each.manifest.unfinished]
            if len(running) != 1:
                sessions = ", ".join(sorted(each.session for each in found))
                raise InvalidInput(f"Several sessions have a job {name!r}: {sessions}. Say which: --session NAME.")
            found = running
        if not found:
            near = difflib.get_close_matches(name, [each.manifest.name for each in jobs], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(f"There is no job {name!r}.{hint} restate-nb jobs lists all.")
        return found[0]

    async def steer(self, job: SeenJob, verb: Verb) -> None:
        """Have the kernel that runs a job cancel, pause or resume it.

        Raises:
            InvalidInput: it has ended, or no kernel runs it.
            ServerError: the kernel does not answer.
        """
        name = job.manifest.name
        if not job.manifest.unfinished:
            raise InvalidInput(f"The job {name!r} has ended: it is {job.status}.")
        if job.live is None:
            raise InvalidInput(
                f"No kernel runs the job {name!r}, or it does not answer. Its session {job.session!r} goes on with it "
                "when rnb.start() and its cell are run."
            )
        body = encode(Order(job=name, verb=verb))
        try:
            async with asyncio.timeout(STEER_SECONDS):
                await self._ingress.call(items_service(_kernel_of(job.session)), STEER_HANDLER, body)
        except TimeoutError:
            raise ServerError(f"The kernel that runs {name!r} does not answer within {STEER_SECONDS:g} s.") from None
        except InvocationFailed as error:
            raise InvalidInput(str(error)) from error

    async def _live_of(self, session: str) -> list[LiveJob] | None:
        """What the kernel of a session says of its jobs; None where there is none, or it does not answer in time."""
        service = items_service(session)
        if self._local and await self._is_gone(service):
            return None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._ingress.call(service, LIVE_HANDLER, b"")
        except (TimeoutError, InvocationFailed, Rejected):  # of a version that has no such handler, too
            return None
        return decode_received(live_decoder, answer, f"the jobs of the session {session!r}")

    async def _is_gone(self, service: str) -> bool:
        for each in await self._admin.deployments():
            if service in {named.get("name") for named in each.get("services", ())}:
                return await is_refused_here(uri_of(each))
        return True


def _kernel_of(session: str) -> str:
    """The session whose kernel follows the jobs of this one: jobs on workers are followed by the session's own."""
    suffix = workers_of("")
    return session.removesuffix(suffix)


def as_json(jobs: Sequence[SeenJob]) -> bytes:
    """Jobs for other programs."""
    return msgspec.json.encode(
        [
            {
                "name": each.manifest.name,
                "session": each.session,
                "function": each.manifest.function,
                "status": each.status,
                "created": each.manifest.created,
                "total": each.manifest.total,
                "rounds": len(each.manifest.rounds),
                "summary": each.manifest.summary,
                "live": each.live,
            }
            for each in jobs
        ]
    )
