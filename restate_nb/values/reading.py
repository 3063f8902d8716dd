"""Reads values of what JSON made of them: what is tagged becomes again what it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from restate_nb.errors import NotReadable
from restate_nb.values import arrays, formats, leaves, pickles
from restate_nb.values.classes import KINDS, Classes, read_fields
from restate_nb.values.plain import HOLDERS
from restate_nb.values.tags import TAG, Read

_READERS: dict[str, Callable[[dict[str, Any], Read], Any]] = {**leaves.READERS, **arrays.READERS, **formats.READERS}
_BINARY: Final = frozenset({"array", "bytearray", "bytes", "ndarray", "pickle"}) | formats.READERS.keys()
"""What has bytes as its content: base64, or a part."""


class Reader:
    """Reads values whose objects are of these classes."""

    __slots__ = ("_classes",)

    def __init__(self, classes: Classes | None) -> None:
        self._classes = classes

    def whole(self, value: Any, raw: bytes) -> Any:
        """What was written, of what JSON made of it. `raw` has a tag in it."""
        if raw.count(b"$") == 1 and type(value) is dict:  # so that there is nothing to look for within it
            tag = value.get(TAG)
            if tag is not None:
                return self._tagged(value, tag, _as_it_is)
        return self.revive(value)

    def revive(self, value: Any) -> Any:
        """The same, of a value that may lie within another."""
        kind = type(value)
        if kind is list:
            return self._elements(value)
        if kind is not dict:
            return value
        tag = value.get(TAG)
        if tag is not None:
            return self._tagged(value, tag, self.revive)
        if HOLDERS.isdisjoint(map(type, value.values())):
            return value
        revive = self.revive
        return {key: revive(each) if type(each) in HOLDERS else each for key, each in value.items()}

    def _tagged(self, value: dict[str, Any], tag: Any, read: Read) -> Any:
        try:
            if tag == "tuple":
                content = value["v"]
                return tuple(read(content) if type(content) is list else map(read, content))
            if tag in KINDS:
                return read_fields(value, read, self._classes)
            reader = _READERS.get(tag)
            if reader is not None:
                return reader(value, read)
            if tag == "pickle":
                return pickles.unpickled(value, self._classes)
            raise LookupError(tag)
        except ImportError as error:
            raise NotReadable(f"It needs a package that is not here: {error}.") from error
        except (LookupError, TypeError, AttributeError, ArithmeticError, OSError, re.error) as error:
            # OSError: a zone's name
            raise ValueError(f"Not a value that restate_nb wrote: {str(value)[:200]}") from error

    def _elements(self, value: list[Any]) -> list[Any]:
        kinds = set(map(type, value))
        if HOLDERS.isdisjoint(kinds):
            return value
        revive = self.revive
        if kinds == _DICTS and {each.get(TAG) == "tuple" for each in value} == {True}:
            contents = [each.get("v") for each in value]
            if set(map(type, contents)) == _LISTS and HOLDERS.isdisjoint(map(type, chain.from_iterable(contents))):
                return list(map(tuple, contents))
        return [revive(each) if type(each) in HOLDERS else each for each in value]


class ReaderOfParts(Reader):
    """Reads a value that has parts."""

    __slots__ = ("_parts",)

    def __init__(self, classes: Classes | None, parts: Sequence[memoryview]) -> None:
        super().__init__(classes)
        self._parts = parts

    def _tagged(self, value: dict[str, Any], tag: Any, read: Read) -> Any:
        content = value.get("v")
        if type(content) is dict and content.get(TAG) == "part" and type(tag) is str and tag in _BINARY:
            number = content.get("v")
            if type(number) is not int or not 0 <= number < len(self._parts):
                raise ValueError(f"Not a value that restate_nb wrote: it has no part {number!r:.50}")
            value = {**value, "v": self._parts[number]}
        return super()._tagged(value, tag, read)


def _as_it_is(value: Any) -> Any:
    return value


_DICTS: Final = frozenset({dict})
_LISTS: Final = frozenset({list})
_READER_OF_NONE: Final = Reader(None)


def reader_for(classes: Classes | None) -> Reader:
    """What reads values with objects of these classes."""
    if classes is None:
        return _READER_OF_NONE
    if classes.reader is None:
        classes.reader = Reader(classes)
    reader: Reader = classes.reader
    return reader
