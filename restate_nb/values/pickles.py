"""Values that have no other form, where the user asked for it with `pickle=True`: written by cloudpickle.

Reading a pickle runs what whoever wrote it put there. So none is read but for a job that was begun with `pickle=True`,
whatever stands in a journal, a request or a store.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.classes import Classes, full_name
from restate_nb.values.leaves import bytes_from
from restate_nb.values.parts import binary
from restate_nb.values.tags import tagged


def as_pickle(value: object) -> object:
    """The value as a pickle.

    Raises:
        NotEncodable: it cannot be pickled.
    """
    import cloudpickle  # noqa: PLC0415 - few values need it

    name = full_name(type(value)).removeprefix("builtins.").removeprefix("__main__.")
    try:
        data = cloudpickle.dumps(value)
    except Exception as error:  # a class of the user's own may do anything
        raise NotEncodable(
            f"An object of class {name} cannot be pickled: {type(error).__name__}: {error}. Return plain data."
        ) from error
    return tagged("pickle", binary(data), of=name)


class _Unpickler(pickle.Unpickler):
    """Reads what cloudpickle wrote, and leaves the classes alone that are here already: it would give each of their
    methods a copy, so that the class would count as changed."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if (module, name) == ("cloudpickle.cloudpickle", "_class_setstate"):
            return lambda kind, state: kind if vars(kind).keys() >= state[0].keys() else found(kind, state)
        return found


def unpickled(written: dict[str, Any], classes: Classes | None) -> Any:
    """What `as_pickle` was given.

    Raises:
        NotReadable: nothing may be unpickled here, or this cannot be.
    """
    name = written["of"]
    if classes is None or not classes.pickles:
        raise NotReadable(
            f"It is a pickled {name}, and nothing is unpickled here: only a job that was begun with pickle=True reads "
            "pickles."
        )
    data = bytes_from(written["v"])
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # as above
        raise NotReadable(f"The pickled {name} cannot be read here: {type(error).__name__}: {error}.") from error
