"""The controls of a mock invocation: what others answer, its journal and clock, and running a handler on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from restate import SdkInternalBaseException
from restate.exceptions import TerminalError

from restate_nb.errors import JournalMismatch
from restate_nb.limits import Seconds
from restate_nb.patterns.sdk import Failure, VMException, running_context
from restate_nb.testing.invocation import Running
from restate_nb.testing.journal import CANCELLED, mismatch
from restate_nb.testing.shared_state import Hosted, Stub, decode, encode, target_of
from restate_nb.validation import seconds

if TYPE_CHECKING:
    from restate_nb.testing.context import MockContext

T = TypeVar("T")


class Mock(Running):
    """The controls of one mock invocation, `ctx.mock`.

    Attributes:
        journal: what the handler did and was answered; `str()` of it shows both.
        requests_made: the calls and sends, in order.
        runs: how often each `ctx.run` action was started, by the step's name.
        now: the virtual seconds since the invocation began.
        attempts: how often the handler was started by `invoke`.
    """

    # What a test prepares.

    def stub(self, handler: object, answer: object, *, delay: Seconds = 0) -> None:
        """Say what calls to a handler return.

        Args:
            handler: the handler function, or "Service/handler".
            answer: the result; or a function (async or not) of nothing, of the input, or of the key and the input,
                that returns it. It fails the call by raising `restate.TerminalError`. An annotated input is decoded to
                its type.
            delay: virtual seconds that the call takes.

        Raises:
            InvalidInput: `handler` is neither a handler nor a name.
        """
        self.world.stubs[target_of(handler)] = Stub(answer, seconds("delay", delay, zero=True))

    def host(self, *services: Any) -> None:
        """Run the real handlers of these services, objects and workflows when they are called, on mocks of their own.

        A handler that was called runs to its end before its caller sees anything of it; then everything that it did
        counts from the virtual time at which it did it. So it cannot wait for something that its caller does later.
        """
        for service in services:
            for handler in service.handlers.values():
                target = f"{service.service_tag.name}/{handler.name}"
                self.world.stubs[target] = Stub(Hosted(handler, self.world))

    def fail(self, step: str, error: BaseException, *, times: int = 1) -> None:
        """Let the next runs of the `ctx.run` action called `step` raise `error` instead of doing anything."""
        self.world.failures.setdefault(step, []).extend([error] * times)

    def set_state(self, name: str, value: object) -> None:
        """Set a state of this object or workflow."""
        self.states[name] = encode(value)

    def state(self, name: str) -> Any:
        """A state of this object or workflow, decoded from JSON; None when it is not set."""
        return decode(self.states.get(name, b""))

    def resolve_awakeable(self, name: str, value: object) -> None:
        """Resolve the awakeable with this id."""
        self.complete_awakeable(name, encode(value))
        self.wake()

    def reject_awakeable(self, name: str, message: str, code: int = 500) -> None:
        """Reject the awakeable with this id."""
        self.complete_awakeable(name, Failure(code, message))
        self.wake()

    def resolve_promise(self, name: str, value: object) -> None:
        """Resolve a promise of this workflow, before or while the handler waits for it."""
        self.complete_promise(name, encode(value))
        self.wake()

    def reject_promise(self, name: str, message: str, code: int = 500) -> None:
        """Reject a promise of this workflow."""
        self.complete_promise(name, Failure(code, message))
        self.wake()

    def resolve_signal(self, name: str, value: object) -> None:
        """Send a named signal to this invocation."""
        self.resolve_promise(f"signal {name}", value)

    def cancel(self, *, after: Seconds = 0) -> None:
        """Cancel the invocation, `after` virtual seconds from now.

        Raises:
            InvalidInput: `after` is negative.
        """
        self.after(seconds("after", after, zero=True), lambda: self.journal.answer(CANCELLED, None))
        self.wake()

    @property
    def awakeables(self) -> list[str]:
        """The ids of the awakeables that wait, in order of their making."""
        return list(self.world.awakeables)

    async def settled(self) -> None:
        """Wait until the handler can do nothing more by itself: it waits for an awakeable, a promise or a signal."""
        await self._idle.wait()

    # Running a handler.

    async def invoke(self, handler: Callable[..., Awaitable[T]], *args: Any, max_attempts: int = 1) -> T:
        """Run a handler as Restate would, from the first attempt to its result.

        With `mock_context(replay=True)` the handler is suspended at every wait and runs again from its journal.

        Args:
            handler: the handler function; it gets a context, and `args`.
            args: the input, if it takes one.
            max_attempts: after an exception that is no TerminalError the handler runs again from its journal, until it
                ran so many times.

        Raises:
            JournalMismatch: a replay did something else than the journal says; both are shown.
            MockStuck: it waits for something that nobody does.
            Exception: what the handler raised.
        """
        from restate_nb.testing.context import MockContext  # noqa: PLC0415 - a context has a mock

        failures = 0
        while True:
            self._begin(MockContext(self))
            try:
                with running_context(self.context):
                    result = await handler(self.context, *args)
                self._end()
                await self._drain()
                return result
            except SdkInternalBaseException:
                continue
            except TerminalError:
                self._end()
                raise
            except JournalMismatch:
                raise
            except VMException as error:
                raise JournalMismatch(str(error)) from error
            except Exception:
                failures += 1
                if failures >= max_attempts:
                    raise
            finally:
                self.context.on_attempt_finished()  # type: ignore[no-untyped-call]
                await asyncio.sleep(0)  # let what the attempt left behind come to its end

    def _begin(self, context: MockContext) -> None:
        self.attempts += 1
        self.context = context
        for handle, ending in list(self.working.items()):  # actions that died with the attempt before
            if ending is None:
                del self.working[handle]
        self.requests |= self.performing
        self.performing.clear()
        self._idle.clear()

    def _end(self) -> None:
        self._raise_if_broken()
        machine = self.context.machine
        if len(machine.issued) < len(self.journal):
            raise JournalMismatch(str(mismatch(self.journal.entries, machine.issued)))

    async def _drain(self) -> None:
        """Let the handlers that were only sent to run."""
        for handle in sorted(self.requests):
            self.working[handle] = None
            await self.requests.pop(handle)()
        self._raise_if_broken()
