"""All that this package uses of restate-sdk's private surface, checked when it is imported.

The public API of the SDK has no place where a coroutine's durable wait can be seen before it starts an asyncio task.
Five private things give that place, and nothing of them is patched on a class:

- every durable wait of an invocation goes through `ctx.create_poll_or_cancel_coroutine(tree)`, and every call made
  through `ctx.create_call_future(...)`: both are shadowed on the one context, as instance attributes;
- `ctx.vm.is_completed(handle)` says what the journal already answered;
- every step's action is run by `ctx.create_run_coroutine(...)`, and all that is to be recorded is given to `ctx.vm`:
  `Tap` shadows these, so that what cannot be recorded ends its step instead of the attempt;
- a durable future starts its coroutine with `asyncio.create_task` (`LazyFuture`), which `loop_guard.py` answers.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from types import CoroutineType, SimpleNamespace
from typing import Any, TypeGuard

from restate.exceptions import SdkInternalBaseException, TerminalError

from restate_nb.errors import UnsupportedSdk
from restate_nb.patterns.misuse import TerminalInvalidInput

SUPPORTED = ">=1.1,<1.4"
"""The versions of restate-sdk whose private surface this module knows; the stress test ran on both ends."""

_LOWEST, _BEYOND = (1, 1), (1, 4)


def _unsupported(installed: str, reason: str) -> UnsupportedSdk:
    return UnsupportedSdk(
        f"restate_nb.patterns works with restate-sdk {SUPPORTED}, but {installed} is installed: {reason}. "
        f'Install one that fits: pip install "restate-sdk{SUPPORTED}"'
    )


def check_version(installed: str) -> None:
    """Refuse a version of restate-sdk outside `SUPPORTED`.

    Raises:
        UnsupportedSdk: with the supported range.
    """
    release = tuple(int(part) for part in re.findall(r"\d+", installed)[:2])
    if not _LOWEST <= release < _BEYOND:
        raise _unsupported(installed, "its private surface is not known to this version of restate_nb")


check_version(version("restate-sdk"))
try:
    from restate import server_context as _server_context
    from restate.server_context import (
        DisconnectedException,
        LazyFuture,
        ServerCallDurableFuture,
        ServerDurableFuture,
        ServerInvocationContext,
        restate_context_is_replaying,
        update_restate_context_is_replaying,
    )
    from restate.vm import (
        DO_PROGRESS_ANY_COMPLETED,
        DO_PROGRESS_CANCEL_SIGNAL_RECEIVED,
        DO_PROGRESS_WAIT_EXTERNAL_PROGRESS,
        NOT_READY,
        SUSPENDED,
        AllCompletedUnresolvedFuture,
        DoProgressCancelSignalReceived,
        DoProgressExecuteRun,
        Failure,
        FirstCompletedUnresolvedFuture,
        Invocation,
        Run,
        SingleUnresolvedFuture,
        UnresolvedFuture,
        VMWrapper,
    )
    from restate.vm import VMException as _VMException  # type: ignore[attr-defined]  # comes from the native module

    for _owner, _name in (
        (ServerInvocationContext, "create_poll_or_cancel_coroutine"),
        (ServerInvocationContext, "create_future"),
        (ServerInvocationContext, "create_sleep_future"),
        (ServerInvocationContext, "create_call_future"),
        (ServerInvocationContext, "create_run_coroutine"),
        (VMWrapper, "is_completed"),
        (VMWrapper, "do_progress"),
        (VMWrapper, "sys_run"),
        (VMWrapper, "take_notification"),
        (VMWrapper, "propose_run_completion_success"),
        (VMWrapper, "propose_run_completion_failure"),
        (LazyFuture, "get"),
        (ServerDurableFuture, "is_completed"),
    ):
        getattr(_owner, _name)
except (ImportError, AttributeError) as error:
    raise _unsupported(version("restate-sdk"), str(error)) from error

_core: Any = None
try:
    from restate._internal import (  # type: ignore[import-not-found]  # native, without stubs
        PyDoProgressAnyCompleted,
        PyDoProgressCancelSignalReceived,
        PyDoProgressExecuteRun,
        PyDoProgressWaitExternalProgress,
        PySuspended,
        PyUnresolvedFuture,
    )

    _core = SimpleNamespace(
        PyDoProgressAnyCompleted=PyDoProgressAnyCompleted,
        PyDoProgressCancelSignalReceived=PyDoProgressCancelSignalReceived,
        PyDoProgressExecuteRun=PyDoProgressExecuteRun,
        PyDoProgressWaitExternalProgress=PyDoProgressWaitExternalProgress,
        PySuspended=PySuspended,
        PyUnresolvedFuture=PyUnresolvedFuture,
    )
except ImportError:  # then trees are given as the SDK has them, which is slower
    pass

Tree = UnresolvedFuture
"""What a coroutine waits for: one handle, the first of several, or all of several."""

# What only tests need (DO_PROGRESS_*, Run ...): the mock context of restate_nb.testing runs the SDK's own context over
# a journal in memory.
__all__ = [
    "DO_PROGRESS_ANY_COMPLETED",
    "DO_PROGRESS_CANCEL_SIGNAL_RECEIVED",
    "DO_PROGRESS_WAIT_EXTERNAL_PROGRESS",
    "NOT_READY",
    "PASS_THROUGH",
    "SUPPORTED",
    "SUSPENDED",
    "CallFuture",
    "DoProgressExecuteRun",
    "Failure",
    "FirstCompletedUnresolvedFuture",
    "Invocation",
    "Run",
    "ServerInvocationContext",
    "SingleUnresolvedFuture",
    "Tap",
    "Tree",
    "VMException",
    "Wiring",
    "adopt_future",
    "check_version",
    "context_of",
    "handles_of",
    "in_flight",
    "is_call_future",
    "is_durable_future",
    "is_of_the_attempt",
    "is_sdk_coroutine",
    "native_core",
    "running_context",
    "unresolved",
]

CallFuture = ServerCallDurableFuture[Any]
"""The durable result of a call to a handler."""

VMException: type[Exception] = _VMException
"""What the native core raises when a handler does something else than its journal says."""

PASS_THROUGH = (DisconnectedException,)
"""Exceptions of the SDK that end an attempt although they derive from Exception."""


def unresolved(tree: Tree, completed: Callable[[int], bool]) -> Tree | None:
    """What is left to wait for of `tree`; None when it is resolved."""
    if isinstance(tree, SingleUnresolvedFuture):
        return None if completed(tree.handle) else tree
    if isinstance(tree, FirstCompletedUnresolvedFuture):
        return None if any(unresolved(child, completed) is None for child in tree.children) else tree
    left = [rest for child in tree.children if (rest := unresolved(child, completed)) is not None]
    if left == tree.children:
        return tree
    return AllCompletedUnresolvedFuture(left) if left else None


def handles_of(tree: Tree) -> set[int]:
    """All handles that `tree` names."""
    if isinstance(tree, SingleUnresolvedFuture):
        return {tree.handle}
    return {handle for child in tree.children for handle in handles_of(child)}


class NativeTree:
    """The first of many handles, as the native core takes it: made once for all the times that it is asked."""

    __slots__ = ("native",)

    def __init__(self, native: Any) -> None:
        self.native = native


def _native(tree: Tree) -> Any:
    if isinstance(tree, SingleUnresolvedFuture):
        return _core.PyUnresolvedFuture.single(tree.handle)
    children = [_native(child) for child in tree.children]
    if isinstance(tree, FirstCompletedUnresolvedFuture):
        return _core.PyUnresolvedFuture.first_completed(children)
    return _core.PyUnresolvedFuture.all_completed(children)


def _take_native_trees(vm: Any) -> bool:
    """Let a core's `do_progress` take a `NativeTree`, too; false if it cannot, since it is none of the SDK's."""
    if _core is None or type(vm) is not VMWrapper:
        return False
    if "do_progress" in vars(vm):  # by `Tap`, or for another scheduler
        return True
    given = vm.do_progress

    def do_progress(tree: Any) -> Any:
        if type(tree) is not NativeTree:
            return given(tree)
        try:
            made = vm.vm.do_progress(tree.native)
        except VMException as error:
            return error
        if isinstance(made, _core.PyDoProgressExecuteRun):
            return DoProgressExecuteRun(made.handle)  # type: ignore[no-untyped-call]
        return _PROGRESS.get(type(made)) or ValueError(f"Unknown progress type: {made}")

    vars(vm)["do_progress"] = do_progress
    return True


def is_durable_future(value: object) -> TypeGuard[ServerDurableFuture[Any]]:
    """Whether `value` was made by a context of the SDK (or of `mock_context`)."""
    return isinstance(value, ServerDurableFuture)


def is_call_future(value: object) -> TypeGuard[CallFuture]:
    """Whether `value` is the result of a call to a handler."""
    return isinstance(value, ServerCallDurableFuture)


def in_flight(call: CallFuture) -> bool:
    """Whether a call has no result yet."""
    completed: bool = call.is_completed()  # type: ignore[no-untyped-call]
    return not completed


def is_sdk_coroutine(value: object) -> TypeGuard[CoroutineType[Any, Any, Any]]:
    """Whether `value` is the coroutine behind a durable future."""
    return isinstance(value, CoroutineType) and value.cr_code.co_filename == _server_context.__file__


def context_of(coroutine: CoroutineType[Any, Any, Any]) -> object:
    """The invocation that a coroutine of the SDK belongs to, or None where it does not say."""
    if coroutine.cr_frame is None:
        return None
    names = coroutine.cr_frame.f_locals
    owner = names.get("self", names.get("context"))
    return getattr(owner, "server_context", owner)


@contextmanager
def running_context(context: ServerInvocationContext) -> Iterator[None]:
    """Let `context` be the one that the SDK's `current_context()` returns, for a while."""
    token = _server_context._restate_context_var.set(context)
    try:
        yield
    finally:
        _server_context._restate_context_var.reset(token)


def adopt_future(
    future: ServerDurableFuture[Any], adopt: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
) -> None:
    """Let a durable future that nobody has awaited be fetched without an asyncio task, by what `adopt` makes."""
    future.future = adopt(future.future.async_def)


_MAKERS = ("create_future", "create_sleep_future", "create_call_future")
_SHADOWED = ("create_poll_or_cancel_coroutine", "create_run_coroutine", *_MAKERS)


_PROGRESS: dict[type, Any] = (
    {}
    if _core is None
    else {
        _core.PySuspended: SUSPENDED,
        _core.PyDoProgressAnyCompleted: DO_PROGRESS_ANY_COMPLETED,
        _core.PyDoProgressWaitExternalProgress: DO_PROGRESS_WAIT_EXTERNAL_PROGRESS,
        _core.PyDoProgressCancelSignalReceived: DO_PROGRESS_CANCEL_SIGNAL_RECEIVED,
    }
)


def native_core(headers: list[tuple[str, str]]) -> VMWrapper:
    """The SDK's native core for one attempt, as its server makes it."""
    vm = VMWrapper(headers)
    _take_native_trees(vm)
    return vm


class Wiring:
    """One invocation's context, as the scheduler sees it."""

    __slots__ = ("_before", "_takes_native", "completed", "context")

    def __init__(self, context: object) -> None:
        if not isinstance(context, ServerInvocationContext):
            raise TerminalInvalidInput(
                "ctx must be the context that Restate passed to your handler (or restate_nb.testing.mock_context()), "
                f"not {context!r}."
            )
        self.context = context
        self._before: dict[str, Any] = {}
        self._takes_native = _take_native_trees(context.vm)
        # Both tell what the journal has, as far as it was read.
        self.completed: Callable[[int], bool] = context.vm.is_completed

    def check_current(self) -> None:
        """Refuse the context of another invocation.

        Raises:
            InvalidInput: the handler that runs was given another context.
        """
        running = _server_context._restate_context_var.get(None)
        if self.finished() or (running is not None and running is not self.context):
            raise TerminalInvalidInput(
                "ctx belongs to another invocation than the handler that runs. Pass on the ctx that this handler was "
                "given; never keep one in a global variable or on an object."
            )

    def completed_of(self, handles: Iterable[int]) -> list[int]:
        """Which of some handles are completed."""
        vm = self.context.vm
        return list(filter(vm.vm.is_completed if self._takes_native else vm.is_completed, handles))

    def node(self, tree: Tree) -> Any:
        """A tree as one of the nodes of `first_of`."""
        return _native(tree) if self._takes_native else tree

    def unless_completed(self, handle: int) -> Tree | None:
        """What to wait for until a handle is completed; None if it is."""
        return None if self.completed(handle) else SingleUnresolvedFuture(handle)

    def first_of(self, nodes: list[Any]) -> Any:
        """The tree that is resolved as soon as one of many is; each was made by `node`."""
        if self._takes_native:
            return NativeTree(_core.PyUnresolvedFuture.first_completed(nodes))
        return FirstCompletedUnresolvedFuture(nodes)

    async def poll(self, tree: Tree | NativeTree) -> None:
        """Wait in the SDK's own way until `tree` is resolved.

        Raises:
            restate.TerminalError: the invocation was cancelled (409).
            restate.SdkInternalBaseException: the attempt ends here.
        """
        # Steps were taken in the operations' own contextvars; the SDK's log filter reads the driver's.
        self.update_replaying()
        await type(self.context).create_poll_or_cancel_coroutine(self.context, tree)  # type: ignore[arg-type]

    def shadow(
        self,
        wait: Callable[[Tree], Coroutine[Any, Any, None]],
        made: Callable[[Any], None],
        threaded: Callable[[Callable[[], Any]], Callable[[], Any]],
    ) -> None:
        """Take this context's waits, futures and actions.

        Args:
            wait: what is waited with.
            made: is told of each durable future that is made.
            threaded: makes a coroutine function of the plain function that is a step's action.
        """

        def making(make: Callable[..., Any]) -> Callable[..., Any]:
            def create(*args: Any, **kwargs: Any) -> Any:
                future = make(self.context, *args, **kwargs)
                made(future)
                return future

            return create

        run = self.context.create_run_coroutine  # a durable function has one of its own

        def create_run_coroutine(handle: int, action: Any, *args: Any, **kwargs: Any) -> Any:
            return run(handle, action if inspect.iscoroutinefunction(action) else threaded(action), *args, **kwargs)

        names = vars(self.context)
        self._before = {name: names[name] for name in _SHADOWED if name in names}
        names["create_poll_or_cancel_coroutine"] = wait
        names["create_run_coroutine"] = create_run_coroutine
        for name in _MAKERS:
            names[name] = making(getattr(type(self.context), name))

    def unshadow(self) -> None:
        """Give the context back as it was."""
        for name in _SHADOWED:
            vars(self.context).pop(name, None)
        vars(self.context).update(self._before)

    def update_replaying(self) -> None:
        """Tell the SDK's log filter, in the context variables of who calls, whether the journal is still replayed."""
        update_restate_context_is_replaying(self.context.vm)

    def tell_whether_replaying(self, variables: contextvars.Context) -> None:
        """Tell it in an operation's context variables, which were right when it took its last step."""
        if variables.get(restate_context_is_replaying) and not self.context.vm.is_replaying():
            variables.run(restate_context_is_replaying.set, False)

    def finished(self) -> bool:
        """Whether the attempt is over."""
        return self.context.request_finished_event.is_set()

    async def until_finished(self) -> None:
        """Wait until the attempt is over."""
        await self.context.request_finished_event.wait()


_PAYLOADS = (
    "sys_run",
    "sys_sleep",
    "sys_set_state",
    "sys_call",
    "sys_send",
    "sys_resolve_awakeable",
    "sys_resolve_signal",
    "propose_run_completion_success",
)
_FAILURES = (
    "sys_reject_awakeable",
    "sys_reject_signal",
    "propose_run_completion_failure",
    "propose_run_completion_transient",
    "propose_run_completion_transient_with_delay_override",
)


class Tap:
    """One invocation's context, where it gives the core what is to be recorded.

    Attributes:
        cancelled: whether Restate has told the handler, in this attempt, that the invocation is cancelled.
    """

    def __init__(self, context: object) -> None:
        assert isinstance(context, ServerInvocationContext)
        self._context, self._vm = context, context.vm
        self.cancelled = False
        _take_native_trees(self._vm)
        progress = self._vm.do_progress

        def do_progress(tree: Tree) -> Any:
            made = progress(tree)
            if isinstance(made, DoProgressCancelSignalReceived):
                self.cancelled = True
            return made

        vars(self._vm)["do_progress"] = do_progress

    async def record(self, name: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """What the journal has as the result of this step: what `make` gives, unless there is a result already.

        It is `ctx.run` without a task and an answer of the server's less. A cancellation does not end it.
        """
        context, vm = self._context, self._vm
        run = vm.sys_run(name)
        tree = SingleUnresolvedFuture(run.handle)
        if not run.replayed:

            async def propose() -> None:
                vm.propose_run_completion_success(run.handle, context._encode(await make()))

            made = None if context.run_coros_to_execute else vm.do_progress(tree)
            if isinstance(made, DoProgressExecuteRun):
                await propose()
            else:
                context.run_coros_to_execute[run.handle] = propose
        while not vm.is_completed(run.handle):
            try:
                await context.create_poll_or_cancel_coroutine(tree)
            except TerminalError:
                continue
        found = await context.must_take_notification(run.handle)  # type: ignore[no-untyped-call]
        assert isinstance(found, bytes)
        return found if context.journal_codec is None else await context.journal_codec.decode(found)

    def replace_methods(self, names: Iterable[str], replacement: Callable[..., Any]) -> None:
        """Put a function in the place of methods of the context."""
        for name in names:
            vars(self._context)[name] = replacement

    def check_payloads(self, check: Callable[[bytes | str], object]) -> None:
        """Have all bytes and names checked that are to be recorded, except for the output; it may raise."""

        def checked(give: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            for each in (*args, *kwargs.values()):
                if isinstance(each, (bytes, str)):
                    check(each)
            return give(*args, **kwargs)

        self._shadow(_PAYLOADS, checked)

    def repair_failures(self, repair: Callable[[Failure], Failure]) -> None:
        """Have `repair` applied to all failures that are to be recorded: the core takes only UTF-8, for example."""

        def repaired(give: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            given = [repair(each) if isinstance(each, Failure) else each for each in args]
            named = {name: repair(each) if isinstance(each, Failure) else each for name, each in kwargs.items()}
            return give(*given, **named)

        self._shadow(_FAILURES, repaired)

    def _shadow(self, names: Iterable[str], through: Callable[..., Any]) -> None:
        for name in names:
            give = getattr(self._vm, name, None)
            if give is not None:  # the oldest versions have fewer
                vars(self._vm)[name] = partial(through, give)

    def guard_steps(
        self,
        guard: Callable[[int, str, Any, Any], tuple[Any, Any]],
        failed: Callable[[BaseException], str],
        recorded: Callable[[int], object],
    ) -> None:
        """Have the steps that are not recorded yet run as `guard` says.

        Args:
            guard: takes a step's handle, name, action and serde, and gives the action and the serde to use.
            failed: the message of a step that ended in what the SDK does not expect, and would wait for ever.
            recorded: is told of handles whose results are in the journal.
        """
        context, vm = self._context, self._vm
        make, sys_run, take = type(context).create_run_coroutine, vm.sys_run, vm.take_notification
        names: dict[int, str] = {}

        def named(name: str) -> Run:
            run = sys_run(name)
            if run.replayed:
                recorded(run.handle)
            else:
                names[run.handle] = name
            return run

        def taken(handle: int) -> Any:
            recorded(handle)
            return take(handle)

        async def create_run_coroutine(handle: int, action: Any, serde: Any, *args: Any, **kwargs: Any) -> None:
            action, serde = guard(handle, names.pop(handle, ""), action, serde)
            try:
                await make(context, handle, action, serde, *args, **kwargs)
            except BaseException as error:
                if is_of_the_attempt(error) or context.request_finished_event.is_set():
                    raise
                vm.propose_run_completion_failure(handle, Failure(500, failed(error)))

        vars(vm)["sys_run"] = named
        vars(vm)["take_notification"] = taken
        vars(context)["create_run_coroutine"] = create_run_coroutine


def is_of_the_attempt(error: BaseException) -> bool:
    """Whether an exception ends the attempt, rather than being one of the user's code."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, (SdkInternalBaseException, *PASS_THROUGH))
