"""What an encoded value is, in a few words, without reading it: for messages, and for what stands for it in a frame."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from restate_nb.values.parts import is_joined, split
from restate_nb.values.reference import is_reference, reference_of

_LONG: Final = 1_000_000
"""Longer JSON is not read through: what it begins with says what it is."""

_FIRST: Final = {ord("{"): "dict", ord("["): "list", ord('"'): "text"}


class _Said(msgspec.Struct):
    """What a tagged value says of itself; what else it has is passed over."""

    tag: str | None = msgspec.field(name="$rnb", default=None)
    of: str | None = None
    shape: list[int] | None = None
    dtype: Any = None
    mode: str = ""
    v: msgspec.Raw = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    tag: str | None = msgspec.field(name="$rnb", default=None)
    v: int = 0


_said = msgspec.json.Decoder(_Said).decode
_part = msgspec.json.Decoder(_Part).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_dict = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def what_of(raw: bytes) -> str:
    """The kind of an encoded value, and its shape or size. Never raises.

    Example:
        >>> what_of(b"[1,2,3]"), what_of(b'{"a":1}')
        ('list, 3 items', 'dict, 1 item')
    """
    try:
        if is_reference(raw):
            reference = reference_of(raw)
            return reference.what or f"a value, {_size(reference.size)}"
        if not is_joined(raw):
            return _of_document(memoryview(raw), [])
        return _of_document(*split(raw))
    except ValueError:  # it is no value
        return f"{len(raw):,} bytes"


def _of_document(document: memoryview, parts: list[memoryview]) -> str:
    kind = _FIRST.get(document[0] if document else 0)
    if kind is None:
        return bytes(document[:40]).decode("utf-8", "replace")
    if kind == "dict" and bytes(document[:8]) == b'{"$rnb":':
        return _of_tagged(_said(document), parts)
    size = len(document) + sum(map(len, parts))
    if kind == "text" or size > _LONG:
        return f"{kind}, {_size(size)}"
    count = len(_list(document) if kind == "list" else _dict(document))
    return f"{kind}, {count:,} item{'' if count == 1 else 's'}"


def _of_tagged(said: _Said, parts: list[memoryview]) -> str:
    tag = str(said.tag)
    if tag in ("object", "model", "enum", "flag", "namedtuple", "pickle"):
        name = str(said.of).rpartition(".")[2]
        return f"pickled {name}" if tag == "pickle" else name
    if said.shape is not None:
        dtype = said.dtype if isinstance(said.dtype, str) else said.mode
        return f"{tag} {_dtype(dtype)}".rstrip() + f", {' x '.join(map(str, said.shape)) or 'scalar'}"
    begin = bytes(memoryview(said.v)[:1])
    if begin == b"{" and (inner := _said(said.v)).tag != "part":
        return f"{tag} {_of_tagged(inner, parts)}" if inner.tag else tag
    if begin == b"[":
        count = len(_list(said.v))
        return f"{tag}, {count:,} item{'' if count == 1 else 's'}"
    return f"{tag}, {_size(_content_size(said.v, parts))}"


def _content_size(content: msgspec.Raw, parts: list[memoryview]) -> int:
    if bytes(memoryview(content)[:1]) == b"{":
        number = _part(content).v
        return len(parts[number]) if 0 <= number < len(parts) else 0
    return max(0, len(memoryview(content)) - 2) * 3 // 4  # of base64


def _dtype(name: str) -> str:
    kinds = {"f": "float", "i": "int", "u": "uint", "c": "complex"}
    if len(name) > 2 and name[0] in "<>|=" and name[1] in kinds and name[2:].isdigit():
        return f"{kinds[name[1]]}{int(name[2:]) * 8}"
    return name


def _size(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.0f} {unit}"
    return f"{size} bytes"
