"""Whose objects have a form of their own, by the library that defines their class; what is not loaded stays so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from restate_nb.values import frames, images, tables, tensors
from restate_nb.values.tags import TAG, Read, Write

WriterOf = Callable[[type], Callable[[Any, Write], object] | None]

_LIBRARIES: Final[dict[str, WriterOf]] = {
    "pandas": frames.writer_of,
    "PIL": images.writer_of,
    "polars": tables.polars_writer_of,
    "pyarrow": tables.pyarrow_writer_of,
    "scipy": tensors.sparse_writer_of,
    "torch": tensors.tensor_writer_of,
}

Reader = Callable[[dict[str, Any], Read], Any]


def _guarded(reader: Reader) -> Reader:
    """Reads as `reader` does; whatever another library raises of content that is wrong is a ValueError."""

    def read(written: dict[str, Any], inner: Read) -> Any:
        try:
            return reader(written, inner)
        except (ValueError, ImportError, RecursionError):
            raise
        except Exception as error:
            raise ValueError(f"Not a {written[TAG]} that restate_nb wrote: {error}") from error

    return read


READERS: Final[dict[str, Reader]] = {
    tag: _guarded(reader)
    for readers in (frames.READERS, images.READERS, tables.READERS, tensors.READERS)
    for tag, reader in readers.items()
}


def writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How objects of a class of another library are written; None where they have no form of their own."""
    found = _LIBRARIES.get(kind.__module__.partition(".")[0])
    return None if found is None else found(kind)


def shown(value: Any, kind: type) -> tuple[str] | None:
    """How such an object is shown to people, in a few words; None where it is no table, image or tensor."""
    library = kind.__module__.partition(".")[0]
    if library not in _LIBRARIES or writer_of(kind) is None:
        return None
    try:
        return (_WORDS[library](value),)
    except Exception:  # it is shown, and nothing depends on it
        return (f"{kind.__name__}",)


def _of_table(value: Any) -> str:
    kind = type(value).__name__
    names = getattr(value, "columns", None) if hasattr(value, "to_arrow") else getattr(value, "column_names", None)
    if names is None or value.__class__.__name__ in ("Series", "ChunkedArray"):
        return f"{kind}, {len(value):,} values"
    return frames.in_words(kind, value.shape, names)


def _of_tensor(value: Any) -> str:
    shape = " x ".join(map(str, value.shape)) or "scalar"
    return f"{type(value).__name__} {str(value.dtype).removeprefix('torch.')}, {shape}"


_WORDS: Final[dict[str, Callable[[Any], str]]] = {
    "pandas": frames.shown,
    "PIL": lambda value: f"image {value.mode}, {value.width} x {value.height}",
    "polars": _of_table,
    "pyarrow": _of_table,
    "scipy": _of_tensor,
    "torch": _of_tensor,
}
