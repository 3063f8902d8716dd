"""A fake of the SDK's native core: one attempt of a mock invocation, over its journal in memory.

It takes the commands that the SDK's own context gives the core (so that serdes, durable futures, `restate.gather` and
`restate.select` are the real ones), compares them with the journal on a replay, and hands out answers one by one, in
journal order, as the core does.
"""

# ruff: noqa: D102 - the methods are the core's, and do what their names say

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from restate_nb.errors import InvalidInput
from restate_nb.patterns.sdk import (
    DO_PROGRESS_ANY_COMPLETED,
    DO_PROGRESS_CANCEL_SIGNAL_RECEIVED,
    DO_PROGRESS_WAIT_EXTERNAL_PROGRESS,
    NOT_READY,
    SUSPENDED,
    DoProgressExecuteRun,
    Failure,
    FirstCompletedUnresolvedFuture,
    Run,
    SingleUnresolvedFuture,
    Tree,
    VMException,
    handles_of,
    unresolved,
)
from restate_nb.testing.callees import Request, decode
from restate_nb.testing.invocation import Invocation, MockStuck
from restate_nb.testing.journal import CANCELLED, Answer, Entry, handle_of, mismatch
from restate_nb.testing.world import World, refusal_of_second_run


def _awaited(tree: Tree) -> tuple[set[int], set[int]]:
    """All handles that a tree names, and those of which one is enough."""
    if isinstance(tree, SingleUnresolvedFuture):
        return {tree.handle}, {tree.handle}
    if not isinstance(tree, FirstCompletedUnresolvedFuture):
        return handles_of(tree), set()
    enough = {child.handle for child in tree.children if isinstance(child, SingleUnresolvedFuture)}
    others = [handles_of(child) for child in tree.children if not isinstance(child, SingleUnresolvedFuture)]
    return enough.union(*others), enough


class FakeCore:
    """One attempt. Its method names are the core's.

    Attributes:
        actions: what `ctx.run` was asked to do and is not started; the context's own dict, by handle.
        issued: the entries that this attempt has made so far.
        closed: whether the attempt is over: nothing that it still does counts.
    """

    def __init__(self, invocation: Invocation, world: World) -> None:
        self.actions: dict[int, Callable[[], Any]] = {}
        self.issued: list[Entry] = []
        self.closed = False
        self._invocation = invocation
        self._world = world
        self._journal = invocation.journal
        self._started: dict[int, Callable[[], Any]] = {}  # the actions of this attempt, to run one again
        self._unread = 0  # the next answer of the journal that this attempt has not seen
        self._known: dict[int, Answer] = {}
        self._taken: set[int] = set()
        self._began_with = len(invocation.journal.answers)
        self._calls: dict[int, str] = {}  # without a result, as far as the journal was read: who is called

    def end_attempt(self) -> None:
        """Let nothing count any more that the attempt has left behind."""
        self.closed = True
        self._world.drop_actions(self._invocation)

    # Reading the journal.

    def is_completed(self, handle: int) -> bool:
        return handle in self._known

    def is_replaying(self) -> bool:
        return len(self.issued) < len(self._journal)

    def take_notification(self, handle: int) -> Any:
        if handle not in self._known:
            return NOT_READY
        self._taken.add(handle)
        return self._known.pop(handle)

    def do_progress(self, tree: Tree) -> Any:
        if self.closed:
            return SUSPENDED
        invocation, answers = self._invocation, self._journal.answers
        awaited, enough = _awaited(tree)
        seen = not (awaited.isdisjoint(self._known) and awaited.isdisjoint(self._taken))
        if (seen or not awaited) and self._is_resolved(tree):
            return DO_PROGRESS_ANY_COMPLETED
        while True:
            # With replay, what is answered now is for the next attempt.
            suspends = invocation.is_due_to_suspend(self._began_with)
            if self._unread < (self._began_with if suspends else len(answers)):
                handle, answer = answers[self._unread]
                self._unread += 1
                if handle == CANCELLED:
                    self._cancel_calls()
                    return DO_PROGRESS_CANCEL_SIGNAL_RECEIVED
                self._known[handle] = answer
                self._calls.pop(handle, None)
                if handle in awaited and (handle in enough or self._is_resolved(tree)):
                    return DO_PROGRESS_ANY_COMPLETED
            elif suspends and not self._world.runs(invocation):
                self.closed = True
                return SUSPENDED
            elif (next_one := self._start_next(awaited)) is not None:
                return DoProgressExecuteRun(next_one)  # type: ignore[no-untyped-call]
            else:
                invocation.awaited = sorted(awaited)
                return DO_PROGRESS_WAIT_EXTERNAL_PROGRESS

    def _is_resolved(self, tree: Tree) -> bool:
        return unresolved(tree, lambda handle: handle in self._known or handle in self._taken) is None

    def _cancel_calls(self) -> None:
        """Cancel the calls that are open, as the core does when the invocation is cancelled."""
        for identity in list(self._calls.values()):
            self.sys_cancel(identity)

    def _start_next(self, awaited: set[int]) -> int | None:
        """The handle of the next action to start, in the order in which the handler asked for them."""
        backing_off = self._invocation.backing_off
        due = [handle for handle in self.actions if handle in awaited and handle not in backing_off]
        if not due:
            return None
        handle = min(due)
        self._started[handle] = self.actions[handle]
        self._world.begin(self._invocation, handle)
        return handle

    # Commands.

    def _command(self, kind: str, name: str, detail: str = "") -> tuple[int, bool]:
        """Record a step, or compare it with the journal; its handle, and whether it is new."""
        if self.closed:
            raise VMException("The attempt is over: nothing can be recorded any more.")
        self._invocation.acts()
        entry, index = Entry(kind, name, detail), len(self.issued)
        self.issued.append(entry)
        recorded = self._journal.entries
        if index == len(recorded):
            recorded.append(entry)
            return handle_of(index), True
        if recorded[index] != entry:
            raise mismatch(recorded, self.issued)
        return handle_of(index), False

    def _at_once(self, kind: str, name: str, detail: str, answer: Callable[[], Answer]) -> int:
        """A step that is answered as soon as it is taken."""
        handle, new = self._command(kind, name, detail)
        if new:
            self._journal.answer(handle, answer())
        return handle

    def sys_run(self, name: str) -> Run:
        handle, _ = self._command("run", name)
        return Run(replayed=self._journal.answered(handle), handle=handle)

    def sys_sleep(self, millis: int, name: str | None = None) -> int:
        handle, new = self._command("sleep", name or "", f"{millis / 1000:g} s")
        if new:
            self._world.after(millis / 1000, lambda: self._invocation.deliver(handle, None))
        return handle

    def sys_call(self, service: str, handler: str, parameter: bytes, key: str | None = None, **options: Any) -> Any:
        handle, new = self._request("call", service, handler, parameter, key, **options)
        return SimpleNamespace(result_handle=handle, invocation_id_handle=handle + 1, new=new)

    def sys_send(self, service: str, handler: str, parameter: bytes, key: str | None = None, **options: Any) -> int:
        handle, _ = self._request("send", service, handler, parameter, key, **options)
        return handle + 1

    def _request(
        self, kind: str, service: str, handler: str, parameter: bytes, key: str | None, **options: Any
    ) -> tuple[int, bool]:
        target = f"{service}/{handler}"
        if kind == "call" and target not in self._world.callees:
            raise InvalidInput(
                f"The handler calls {target}, which this mock does not know. Stub it: "
                f'ctx.mock.stub("{target}", lambda arg: ...), or host the service: ctx.mock.host(service).'
            )
        text = parameter.decode(errors="replace")
        place, new = self._command(kind, target, f"{key}: {text}" if key is not None else text)
        if new:
            delay, headers = (options.get("delay") or 0) / 1000, tuple(map(tuple, options.get("headers") or ()))
            more = [options.get(name) for name in ("idempotency_key", "scope", "limit_key")]
            self._submit(kind, place, Request(target, key, decode(parameter), "", delay, headers, *more), parameter)
        if kind == "call" and not self.is_completed(place):
            self._calls[place] = str(self._journal.answer_to(place + 1))
        return place, new

    def _submit(self, kind: str, place: int, request: Request, parameter: bytes) -> None:
        invocation, world = self._invocation, self._world
        before = world.known(request)
        made = before or world.submit(request, parameter)
        invocation.requests_made.append(replace(request, invocation_id=made.id))
        self._journal.answer(place + 1, made.id)
        if kind == "send":
            return
        if before is not None and getattr(made.handler, "kind", None) == "workflow":
            self._journal.answer(place, refusal_of_second_run())
        else:
            world.attach(made.id, invocation, place)

    def sys_cancel(self, invocation_id: str) -> None:
        if self._command("cancel", invocation_id)[1]:
            self._world.cancel(invocation_id)

    def attach_invocation(self, invocation_id: str) -> int:
        handle, new = self._command("attach", invocation_id)
        if new:
            self._world.attach(invocation_id, self._invocation, handle)
        return handle

    # State.

    def _check_state(self, *, writes: bool) -> None:
        if refused := self._invocation.state_access(writes):
            raise InvalidInput(refused)

    def sys_get_state(self, name: str, entry_name: str | None = None) -> int:
        self._check_state(writes=False)
        return self._at_once("get", name, entry_name or "", lambda: self._invocation.states.get(name))

    def sys_get_state_keys(self, entry_name: str | None = None) -> int:
        self._check_state(writes=False)
        return self._at_once("keys", entry_name or "", "", lambda: sorted(self._invocation.states))

    def sys_set_state(self, name: str, value: bytes, entry_name: str | None = None) -> None:
        self._check_state(writes=True)
        if self._command("set", name, value.decode(errors="replace"))[1]:
            self._invocation.states[name] = value

    def sys_clear_state(self, name: str, entry_name: str | None = None) -> None:
        self._check_state(writes=True)
        if self._command("clear", name)[1]:
            self._invocation.states.pop(name, None)

    def sys_clear_all_state(self, entry_name: str | None = None) -> None:
        self._check_state(writes=True)
        if self._command("clear_all", "")[1]:
            self._invocation.states.clear()

    # Awakeables, promises, signals.

    def sys_awakeable(self) -> tuple[str, int]:
        handle, new = self._command("awakeable", "")
        name = f"awk_{self._invocation.id}_{handle}"
        if new:
            self._world.awakeables[name] = (self._invocation, handle)
        return name, handle

    def sys_resolve_awakeable(self, name: str, value: bytes) -> None:
        if self._command("resolve_awakeable", name, value.decode(errors="replace"))[1]:
            self._world.complete_awakeable(name, value)

    def sys_reject_awakeable(self, name: str, failure: Failure) -> None:
        if self._command("reject_awakeable", name, failure.message)[1]:
            self._world.complete_awakeable(name, failure)

    def sys_get_promise(self, name: str) -> int:
        handle, new = self._command("promise", name)
        if new:
            self._invocation.await_promise(name, handle)
        return handle

    def sys_peek_promise(self, name: str) -> int:
        return self._at_once("peek_promise", name, "", lambda: self._invocation.promises.get(name))

    def sys_complete_promise_success(self, name: str, value: bytes) -> int:
        return self._complete_promise(name, value, value.decode(errors="replace"))

    def sys_complete_promise_failure(self, name: str, failure: Failure) -> int:
        return self._complete_promise(name, failure, failure.message)

    def _complete_promise(self, name: str, answer: Answer, detail: str) -> int:
        return self._at_once("complete_promise", name, detail, lambda: self._invocation.complete_promise(name, answer))

    def sys_signal(self, signal_name: str) -> int:
        handle, new = self._command("signal", signal_name)
        if new:
            self._invocation.await_signal(signal_name, handle)
        return handle

    def sys_resolve_signal(self, invocation_id: str, signal_name: str, value: bytes) -> None:
        if self._command("resolve_signal", signal_name, invocation_id)[1]:
            self._signal(invocation_id, signal_name, value)

    def sys_reject_signal(self, invocation_id: str, signal_name: str, failure: Failure) -> None:
        if self._command("reject_signal", signal_name, invocation_id)[1]:
            self._signal(invocation_id, signal_name, failure)

    def _signal(self, invocation_id: str, name: str, answer: Answer) -> None:
        recipient = self._world.invocations.get(invocation_id)
        if recipient is not None:
            recipient.signal(name, answer)

    # What became of a ctx.run action.

    def propose_run_completion_success(self, handle: int, output: bytes) -> None:
        self._ended(handle, lambda: self._journal.answer(handle, bytes(output)))

    def propose_run_completion_failure(self, handle: int, output: Failure) -> None:
        self._ended(handle, lambda: self._journal.answer(handle, output))

    def propose_run_completion_transient(
        self, handle: int, failure: Failure, attempt_duration_ms: int, config: Any
    ) -> None:
        self._failed(
            handle,
            failure,
            max_attempts=config.max_attempts,
            max_seconds=None if config.max_duration is None else config.max_duration / 1000,
            first=(config.initial_interval or 50) / 1000,
            factor=config.interval_factor or 2.0,
            longest=(config.max_interval or 10_000) / 1000,
        )

    def propose_run_completion_transient_with_delay_override(  # noqa: PLR0917 - so the SDK calls it
        self,
        handle: int,
        failure: Failure,
        attempt_duration_ms: int,
        delay_override: timedelta | None,
        max_retry_attempts_override: int | None,
        max_retry_duration_override: timedelta | None,
    ) -> None:
        wait = delay_override.total_seconds() if delay_override else 0.05
        limit = max_retry_duration_override.total_seconds() if max_retry_duration_override else None
        self._failed(
            handle, failure, max_attempts=max_retry_attempts_override, max_seconds=limit, first=wait, factor=1.0,
            longest=wait,
        )  # fmt: skip

    def _failed(self, handle: int, failure: Failure, **policy: Any) -> None:
        def ending() -> None:
            became = self._invocation.action_failed(handle, failure, **policy)
            if became == "waits" and self._invocation.by_hand:
                self.actions[handle] = self._started[handle]  # it is due again after its back-off
            elif became == "waits":
                self.closed = True  # as on a server: the attempt has failed, and all of the handler runs again
            elif became == "stuck":
                self._world.fail(
                    MockStuck(
                        f"A step failed {self._invocation.failures_of(handle)} times; restate-server would pause the "
                        f"invocation now: {failure.message}. Limit its attempts with RunOptions(max_attempts=...).\n"
                        + (failure.stacktrace or "")
                    )
                )

        self._ended(handle, ending)

    def _ended(self, handle: int, ending: Callable[[], None]) -> None:
        if not self.closed:
            self._world.end(self._invocation, handle, ending)

    # The wire, which a mock has not.

    def take_output(self) -> bytes:
        return b""

    def notify_input(self, input_buf: bytes) -> None:
        pass

    def notify_input_closed(self) -> None:
        pass
