"""A handle on a value, or an item, that lies in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from restate_nb.formatting import size
from restate_nb.store.base import NotStored
from restate_nb.values.reference import Reference, reference_of


class Stored:
    """A value that lies in the store, and is read only when it is asked for.

    Frames hold such handles where all the values together are more than is read at once, and where `lazy=True` asks for
    them. Two are equal when the values have the same content. A handle belongs to its process: it cannot be pickled,
    nor be passed to a function of a job; what `load()` gives can.

    Example:
        for label, stored in job.frame(lazy=True)["value"].items():
            if isinstance(stored, rnb.Stored):
                print(label, stored.what, stored.size, stored.load())
    """

    __slots__ = ("_position", "_raw", "_read")

    def __init__(self, raw: bytes, position: int, read: Callable[[bytes, int], Any]) -> None:
        """
        Args:
            raw: the encoded reference.
            position: of which item it is.
            read: gives the value for both.
        """
        self._raw = raw  # a quarter of what it takes when it is read
        self._position = position
        self._read = read

    @property
    def what(self) -> str:
        """What the value is, such as `DataFrame, 100 x 3`; empty where that was not noted."""
        return self._reference.what

    @property
    def size(self) -> int:
        """How many bytes it has in the store."""
        return self._reference.size

    def load(self) -> Any:
        """Read the value. It is not kept here: each call reads it anew.

        Raises:
            NotReadable: it needs a class or a package that is not known here; or it is not in the store any longer,
                which is a NotStored.
            StoreUnavailable: the store does not answer.
        """
        try:
            return self._read(self._raw, self._position)
        except NotStored as error:
            raise NotStored(
                f"What is stored for item {self._position} ({self._in_words()}) is no longer in the store, as after "
                f"the job was deleted or begun anew: {error}"
            ) from error

    @property
    def _reference(self) -> Reference:
        return reference_of(self._raw)

    def _in_words(self) -> str:
        reference = self._reference
        return f"{reference.what or 'value'}, {size(reference.size)}"

    def __repr__(self) -> str:
        return f"<Stored {self._in_words()}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stored):
            return NotImplemented
        own, its = self._reference, other._reference
        return (own.sum, own.size) == (its.sum, its.size)

    def __hash__(self) -> int:
        return hash(self._reference.sum)

    def __copy__(self) -> Stored:
        return self

    def __deepcopy__(self, memo: object) -> Stored:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A rnb.Stored is a handle of this process, and cannot be pickled. Pass on what its load() gives."
        )
