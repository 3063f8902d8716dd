"""Writes values as JSON's own types, all else tagged: what is to be encoded next.

Large binary leaves stand in it as `parts.Part`, and whoever encodes it decides what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from math import isfinite
from typing import Any, Final

from restate_nb.errors import NotEncodable
from restate_nb.values import arrays, formats, leaves, pickles
from restate_nb.values.classes import Classes, Shape, fields_shown, is_structured
from restate_nb.values.plain import AS_THEY_ARE, FEW, HIGHEST, KEYS, LOWEST, are_scalars
from restate_nb.values.tags import TAG, Write, tagged

MAX_DEPTH: Final = 200
"""How many lists and objects of JSON may lie in one another. Readers of JSON fail at depths of their own, some by a
crash; what is written is within the reach of all of them, whatever the recursion limit is."""


def writer_for(classes: Classes | None) -> Writer:
    """What writes values with objects of these classes."""
    if classes is None:
        return _OF_ANY_CLASS
    if classes.writer is None:
        classes.writer = Writer(classes, False)
    writer: Writer = classes.writer
    return writer


def too_deep() -> NotEncodable:
    """What is raised where a value has more levels than `MAX_DEPTH`."""
    return NotEncodable(
        f"The value is nested too deeply, or contains itself: {MAX_DEPTH} levels can be kept. Return plain, flat data."
    )


Way = Callable[[Any, int], Any]
"""Writes a value of one class as JSON's own types, all else tagged; given how many levels may still follow."""


class Writer:
    """Writes values. `room` is how many levels may still follow."""

    __slots__ = ("_ways", "classes", "pickles", "surrogates")

    def __init__(self, classes: Classes | None, surrogates: bool) -> None:
        self.classes = classes
        self.surrogates = surrogates
        self.pickles = classes is not None and classes.pickles
        self._ways: dict[type, Way] = {**_LEAVES, list: self._list, dict: self._dict, tuple: self._tuple}
        if surrogates:
            self._ways[str] = lambda value, _: self.text(value)
        if self.pickles:
            for kind in leaves.SOMETIMES_REFUSED:
                self._ways[kind] = _or_pickled(_LEAVES[kind])

    def whole(self, value: Any) -> Any:
        """A value that is not plain as JSON's own types, all else tagged."""
        kind = type(value)
        if kind is list:
            return self.elements(value, MAX_DEPTH)
        if kind is dict:
            return self._items(value, MAX_DEPTH)
        if kind is tuple:
            return {TAG: "tuple", "v": self.elements(value, MAX_DEPTH - 1)}
        return self.plain(value, MAX_DEPTH)

    def plain(self, value: Any, room: int) -> Any:
        """The value as JSON's own types, all else tagged."""
        kind = type(value)
        way = self._ways.get(kind)
        return self._of_other(value, kind, room) if way is None else way(value, room)

    def text(self, value: str) -> object:
        """Text, where some of it is not Unicode."""
        return leaves.text(value)

    def _tuple(self, value: tuple[Any, ...], room: int) -> Any:
        return {TAG: "tuple", "v": self._list(value, room - 1)}

    def _list(self, value: list[Any] | tuple[Any, ...], room: int) -> Any:
        if room <= 0:
            raise too_deep()
        return value if not self.surrogates and are_scalars(value) else self.elements(value, room)

    def elements(self, value: list[Any] | tuple[Any, ...], room: int) -> Any:
        """The elements of a list or tuple, where not all of them are plain."""
        plain, room = self.plain, room - 1
        if self.surrogates:
            return [plain(each, room) for each in value]
        if len(value) > FEW:
            kinds = set(map(type, value))
            if kinds == _TUPLES and room > 1 and are_scalars([*chain.from_iterable(value)]):
                return [{TAG: "tuple", "v": each} for each in value]
            way = self._ways.get(*kinds) if len(kinds) == 1 else None
            if way is not None:
                return [way(each, room) for each in value]
        return [each if type(each) in AS_THEY_ARE else plain(each, room) for each in value]

    def _dict(self, value: dict[Any, Any], room: int) -> Any:
        if room <= 0:
            raise too_deep()
        flat = not self.surrogates and KEYS.issuperset(map(type, value)) and TAG not in value
        return value if flat and are_scalars(value.values()) else self._items(value, room)

    def _items(self, value: dict[Any, Any], room: int) -> Any:
        plain = self.plain
        if KEYS.issuperset(map(type, value)) and TAG not in value:
            if not self.surrogates:
                room -= 1
                return {key: each if type(each) in AS_THEY_ARE else plain(each, room) for key, each in value.items()}
            if all(type(leaves.text(key)) is str for key in value):
                return {key: plain(each, room - 1) for key, each in value.items()}
        if room <= 3:
            raise too_deep()
        room -= 3
        return tagged("dict", [[plain(key, room), plain(each, room)] for key, each in value.items()])

    def _of_other(self, value: Any, kind: type, room: int) -> object:
        if room <= 2:
            raise too_deep()
        return self.other(value, kind, room)

    def other(self, value: Any, kind: type, room: int) -> object:
        """Containers but lists and dicts, numpy, pandas, and objects with fields."""
        try:
            way = self.way_to(kind)
            if way is None:
                raise leaves.refusal(value, kind)
        except NotEncodable:
            if not self.pickles:
                raise
            way = _pickled
        if self.classes is not None or not is_structured(kind):  # else it would be kept for ever
            self._ways[kind] = way
        return way(value, room)

    def way_to(self, kind: type) -> Way | None:
        """How objects of this class are written; None where they cannot be.

        Raises:
            NotEncodable: they could not be read back.
        """
        container = leaves.CONTAINERS.get(kind)
        if container is not None:
            return self._within(container)
        if is_structured(kind):
            return self._of_class(Shape(kind) if self.classes is None else self.classes.shape_to_write(kind))
        write = leaves.rare(kind) or formats.writer_of(kind) or arrays.writer_of(kind)
        return None if write is None else self._within(write)

    def _within(self, write: Callable[[Any, Write], object | None]) -> Way:
        def way(value: Any, room: int) -> object:
            if room <= 2:
                raise too_deep()
            found = write(value, lambda inner: self.plain(inner, room - 2))
            if found is None:
                raise leaves.refusal(value, type(value))
            return found

        return _or_pickled(way) if self.pickles else way

    def _of_class(self, shape: Shape) -> Way:
        whole, state_of, name = self._within(shape.write), shape.state_of, shape.name
        if shape.is_plain_row:
            return self._of_rows(shape)
        if state_of is None:
            return whole

        def way(value: Any, room: int) -> object:
            state = state_of(value)
            if state is None or room <= 2:
                return whole(value, room)
            if self.surrogates or not are_scalars(state.values()):
                plain, room = self.plain, room - 2
                state = {key: plain(each, room) for key, each in state.items()}
            return {TAG: "object", "v": state, "of": name}

        return way

    def _of_rows(self, shape: Shape) -> Way:
        name, fields = shape.name, shape.fields

        def way(value: Any, room: int) -> object:
            if room <= 2:
                raise too_deep()
            if self.surrogates or not are_scalars(value):
                plain, room = self.plain, room - 2
                value = [plain(each, room) for each in value]
            return {TAG: "namedtuple", "v": value, "of": name, "fields": fields}

        return way


def _pickled(value: Any, _: int) -> object:
    return pickles.as_pickle(value)


def _or_pickled(way: Way) -> Way:
    """Writes as `way` does; what that refuses is pickled."""

    def either(value: Any, room: int) -> Any:
        try:
            return way(value, room)
        except NotEncodable:
            return pickles.as_pickle(value)

    return either


def _int(value: int, _: int) -> object:
    return value if LOWEST <= value <= HIGHEST else tagged("int", hex(value))


def _float(value: float, _: int) -> object:
    return value if isfinite(value) else tagged("float", str(value))


def _leaf(write: Callable[[Any], object]) -> Way:
    return lambda value, _: write(value)


_TUPLES: Final = frozenset({tuple})
_LEAVES: Final[dict[type, Way]] = {
    **{kind: _leaf(write) for kind, write in leaves.WRITERS.items()},
    **{each: _leaf(lambda value: value) for each in (str, bool, type(None))},
    int: _int,
    float: _float,
}


class Shown(Writer):
    """Writes what is shown elsewhere, and not read back."""

    __slots__ = ()

    def text(self, value: str) -> object:
        """Text that can be written to any file."""
        return leaves.shown_text(value)

    def _items(self, value: dict[Any, Any], room: int) -> Any:
        if self.surrogates:
            value = {leaves.shown_text(key) if type(key) is str else key: each for key, each in value.items()}
        return super()._items(value, room)

    def other(self, value: Any, kind: type, room: int) -> object:
        """An object's fields, or its `repr` where it has no other form."""
        shown = formats.shown(value, kind) or fields_shown(value, lambda inner: self.plain(inner, room - 2))
        if shown is not None:
            return shown[0]
        try:
            way = self.way_to(kind)
            if way is None:
                raise leaves.refusal(value, kind)
            return way(value, room)
        except NotEncodable as error:
            if str(error) == str(too_deep()):
                raise
            return leaves.shown_text(leaves.repr_of(value))


_OF_ANY_CLASS: Final = Writer(None, False)
SHOWN: Final = Shown(None, False)
"""The one there is."""
