"""Different functions side by side in one job: each of its items is one of them, known by a key."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Self

import msgspec

from restate_nb.engine.attempt import ItemCall, Remote
from restate_nb.engine.function import Executor, Function, innermost
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.store.base import Store
from restate_nb.values.classes import Classes
from restate_nb.values.codec import Instead, decode, encode

_NO_ARGUMENTS = b"[]"


class FunctionTable(Function):
    """Functions that take nothing, or only a Restate context. An item is the key of one; its call has no arguments.

    Raises:
        InvalidInput: one of them is no such function.
    """

    def __init__(
        self,
        functions: Mapping[Hashable, Callable[..., Any]],
        *,
        durable: bool = False,
        executor: Executor = "auto",
        version: str | int | None = None,
    ) -> None:
        """`functions` by key, in the order of the items."""
        self._parts = {
            encode(key): Function(fn, "args", durable=durable, executor=executor) for key, fn in functions.items()
        }
        self._in_order = list(self._parts.values())
        for key, part in zip(functions, self._in_order, strict=True):
            part.check_call(key)
        call = self._dispatch if durable else self._call
        classes = Classes(kind for part in self._in_order for kind in part.classes)
        super().__init__(call, durable=durable, executor=executor, version=version, classes=classes)
        self.name = _title([part.name for part in self._in_order])

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The operations."""
        return tuple(part.fn for part in self._in_order)

    def keep_in(self, store: Store | None, *, parts: bool = True, pickle: bool = False) -> None:
        """Say where its values may lie that are too large for a journal; see `Function.keep_in`."""
        super().keep_in(store, parts=parts, pickle=pickle)
        for part in self._in_order:
            part.keep_in(store, parts=parts, pickle=pickle)

    @property
    def one_function(self) -> bool:
        """Whether all operations call the same function, with arguments of their own."""
        return len({id(innermost(part.fn)) for part in self._in_order}) == 1

    def check_value(self) -> None:
        """See that what the operations are annotated to return can be kept.

        Raises:
            InvalidInput: for one of them it certainly cannot.
        """
        for part in self._in_order:
            part.check_value()

    @property
    def labels(self) -> tuple[str, ...]:
        """Their keys, as text."""
        labels: dict[str, None] = {}
        for key in map(decode, self._parts):
            label = key if isinstance(key, str) else repr(key)
            labels[label if label not in labels else f"{label} #{len(labels)}"] = None
        return tuple(labels)

    @property
    def options(self) -> str:
        """What tells this job from one over the same keys."""
        return "operations, durable" if self.durable else "operations"

    def _call(self, key: Any) -> Any:
        return self._parts[encode(key)].fn()

    async def _dispatch(self, ctx: Any, key: Any) -> Any:
        return await self._parts[encode(key)].fn(ctx)

    def with_executor(self, executor: Executor) -> Self:
        """The same operations, which another executor runs."""
        other = super().with_executor(executor)
        other._parts = {key: part.with_executor(executor) for key, part in self._parts.items()}
        other._in_order = list(other._parts.values())
        return other

    def item_call(self, retry: Retry = NO_RETRY) -> ItemCall:
        """How a pool calls it: each operation in its own way."""
        calls = {key: _without_item(part.item_call(retry)) for key, part in self._parts.items()}
        return ItemCall(self.caller(), "thread", contextvars.copy_context(), pick=lambda payload: calls[bytes(payload)])

    def value(self, raw: bytes | msgspec.Raw, position: int = 0) -> Any:
        """A recorded value as the operation at that position returned it."""
        return self._in_order[position].value(raw)

    def value_column(
        self, raws: Sequence[bytes], positions: Sequence[int], instead: Instead | None = None
    ) -> list[Any]:
        """Many recorded values, each as the operation at its position returned it."""
        return [
            value
            for raw, position in zip(raws, positions, strict=True)
            for value in self._in_order[position].value_column([raw], [0], instead)
        ]


def _without_item(call: ItemCall) -> ItemCall:
    """The call of one operation, whatever the payload is."""
    function, remote = call.function, call.remote
    if remote is not None:
        pack = remote.pack
        remote = Remote(remote.function, lambda _: pack(_NO_ARGUMENTS))
    return dataclasses.replace(call, function=lambda _: function(_NO_ARGUMENTS), remote=remote)


def _title(names: list[str]) -> str:
    """The names of the functions, so far as they can be shown."""
    names = list(dict.fromkeys(names))
    return "+".join(names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]) or "nothing"
