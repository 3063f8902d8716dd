"""Finds functions made in a loop that all see the loop's last value.

    [lambda: fetch(ctx, url) for url in urls]

Python binds `url` when a lambda is called, and the helpers call it when there is room: each would fetch the last one.
What gives them away: two functions of one piece of code, over the very same variables, one of which is set in the loop
in which they are made.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

from restate_nb.errors import InvalidInput


class LateBinding:
    """Looks at the operations of one helper, one after the other.

    Args:
        helper: the helper's name, for messages.
        is_over: whether an operation has ended, so that its variables may be set again.
    """

    def __init__(self, helper: str, is_over: Callable[[int], bool] = lambda index: False) -> None:
        self._helper = helper
        self._is_over = is_over
        self._first: dict[CodeType, tuple[int, FunctionType]] = {}
        self._innocent: set[CodeType] = set()

    def look(self, index: int, operation: object) -> None:
        """Look at the next operation.

        Raises:
            InvalidInput: it is one that sees, with an earlier one, the loop's last value.
        """
        if not isinstance(operation, FunctionType) or not operation.__closure__:
            return
        code = operation.__code__
        if code in self._innocent:
            return
        first, earlier = self._first.setdefault(code, (index, operation))
        if earlier is operation or not _same(earlier, operation):
            return
        if self._is_over(first):
            self._first[code] = index, operation
            return
        name = next(_set_beside(operation), None)
        if name is None:
            self._innocent.add(code)
            return
        raise InvalidInput(
            f"Operations {first} and {index} of {self._helper} use the variable {name!r} of the loop in which they "
            "were made: when they run, all of them see its last value.\n"
            f"    wrong: [lambda: fetch(ctx, {name}) for {name} in items]\n"
            f"    right: [partial(fetch, ctx, {name}) for {name} in items]\n"
            f"    right: [lambda {name}={name}: fetch(ctx, {name}) for {name} in items]\n"
            f"    right: map_concurrent(ctx, items, lambda {name}: fetch(ctx, {name}))"
        )


def _same(one: FunctionType, other: FunctionType) -> bool:
    """Whether two functions of one code can do nothing but the same."""
    cells, others = one.__closure__ or (), other.__closure__ or ()
    return (
        all(cell is another for cell, another in zip(cells, others, strict=True))
        and one.__defaults__ is other.__defaults__
        and one.__kwdefaults__ is other.__kwdefaults__
    )


def _set_beside(function: FunctionType) -> Iterator[str]:
    """The variables of a function that are set in the loop in which it is made."""
    code = function.__code__
    for maker in _makers(function):
        instructions = list(dis.get_instructions(maker))
        made = next((each.offset for each in instructions if each.argval is code), None)
        if made is None:
            continue
        jumps = (each for each in instructions if each.opcode in _JUMPS and isinstance(each.argval, int))
        loops = [(each.argval, each.offset) for each in jumps if each.argval <= made <= each.offset]
        if loops:
            begin, end = min(loops, key=lambda loop: loop[1] - loop[0])
            for each in instructions:
                if begin <= each.offset <= end and each.opname == "STORE_DEREF" and each.argval in code.co_freevars:
                    yield each.argval
        return


_JUMPS = {*dis.hasjrel, *dis.hasjabs}


def _makers(function: FunctionType) -> Iterator[CodeType]:
    """The code in which a function may have been made: that which runs, and that which its name tells of."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        yield from _within(frame.f_code, function.__code__)
        frame = frame.f_back
    found: Any = function.__globals__
    for part in function.__qualname__.split(".<locals>")[0].split("."):
        found = found.get(part) if isinstance(found, dict) else getattr(found, part, None)
    code = getattr(getattr(found, "__wrapped__", found), "__code__", None)
    if isinstance(code, CodeType):
        yield from _within(code, function.__code__)


def _within(code: CodeType, wanted: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if constant is wanted:
            yield code
        elif isinstance(constant, CodeType):
            yield from _within(constant, wanted)
