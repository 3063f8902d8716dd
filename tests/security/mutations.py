"""Makes bad documents of good ones: values of other types, extremes, missing and doubled parts, cut bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

KINDS = [
    "bytes",
    "complex",
    "date",
    "datetime",
    "decimal",
    "dict",
    "float",
    "frozenset",
    "int",
    "ndarray",
    "path",
    "set",
]
KINDS += [
    "str",
    "time",
    "timedelta",
    "tuple",
    "uuid",
    "Timestamp",
    "Timedelta",
    "missing",
    "Interval",
    "Period",
    "?",
    "",
]

EXTREMES: list[Any] = [
    *(None, True, False, 0, -1, 3, 255, 256, 65_536, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 10**400),
    *(0.5, -0.0, 1e-320, 1e300, -1e300, 1e18, float("inf"), float("-inf"), float("nan")),
    *("", " ", "\0", "a", "-1", "0x10", "1e999", "nan", "\ud800", "\u202e", "é" * 40, "a" * 5_000, "/", "a/b", ":"),
    *(
        "../../../etc/passwd",
        "/etc",
        "America",
        "Europe/Paris",
        "a:b",
        "os:",
        ":path",
        "no.such.module:name",
        "math:pi",
    ),
    *("2026-13-40", "2026-01-01", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "NaT", "P1D", "PT1H", "Q", "D"),
    *("i4", "O", "|O", "V0", "U0", "<U1000000", "f2,O", "M8[ns]", "M8[as]", "m8", ">c16", "S3", "(3,)i4"),
    *([], {}, [[]], [None], [-1], [2**40], [0] * 300, {"": None}, {"message": {"a": 1}}, {"v": []}, "AAAA", "AAA="),
]

ODD_BYTES = [
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\0",
    b"[",
    b"{",
    b'"',
    b"\\u",
    b"1e400",
    b"[" * 3_000,
    b'{"a":' * 3_000,
]
ODD_BYTES += [b"NaN", b"-", b"\xef\xbb\xbf", b"\r\n", b"9" * 5_000, b"\n", b",", b":", b"[" * 200_000]


def hostile(rng: random.Random, fragment: Any) -> Any:
    """A value that is likely to be wrong wherever it stands."""
    match rng.randrange(6):
        case 0:
            return fragment
        case 1:
            return {
                "$rnb": rng.choice(KINDS),
                "v": hostile(rng, fragment),
                rng.choice(["tz", "unit", "freq"]): fragment,
            }
        case 2:
            dtype, shape = rng.choice(EXTREMES), rng.choice(EXTREMES)
            tagged = {"$rnb": rng.choice(["ndarray", "Period", "Interval", "Timestamp"]), "v": rng.choice(EXTREMES)}
            return tagged | {
                "dtype": dtype,
                "shape": shape,
                "scalar": True,
                "closed": dtype,
                "freq": shape,
                "unit": dtype,
            }
        case 3:
            deep: Any = fragment
            for _ in range(rng.choice([3, 60, 600])):
                deep = [deep]
            return deep
    return rng.choice(EXTREMES)


def mutated(rng: random.Random, samples: list[bytes], fragment: Any) -> bytes:
    """A document made of one of the samples, or of two of them."""
    document = rng.choice(samples)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        changed = _with_other_values(rng, document, fragment) if rng.random() < 0.7 else None
        document = _with_other_bytes(rng, document, rng.choice(samples)) if changed is None else changed
    return document


def _with_other_values(rng: random.Random, document: bytes, fragment: Any) -> bytes | None:
    """None when it is no JSON (any more)."""
    try:
        parsed = [json.loads(document)]
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [parsed]
    while waiting and len(places) < 2_000:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], (dict, list))]
    node, key = rng.choice(places)
    other_node, other_key = rng.choice(places)
    match rng.randrange(5):
        case 0 if node is not parsed:
            del node[key]
        case 1 if isinstance(node, list):
            node.append(node[key] if node is not parsed else fragment)
        case 2 if isinstance(node, dict):
            node[rng.choice(["$rnb", "v", "", "x" * 50])] = hostile(rng, fragment)
        case 3:
            node[key] = copy.copy(other_node[other_key])
        case _:
            node[key] = hostile(rng, fragment)
    try:
        return json.dumps(parsed[0]).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # a value that now holds itself
        return None


def _with_other_bytes(rng: random.Random, document: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(document) + 1)
    until = min(len(document), at + rng.choice([1, 1, 4, 64, 4096]))
    match rng.randrange(6):
        case 0:
            return document[:at]
        case 1:
            return document[:at] + document[until:]
        case 2:
            return document[:at] + rng.choice(ODD_BYTES) + document[at:]
        case 3:
            return document[:at] + rng.randbytes(until - at) + document[until:]
        case 4:
            return document[:until] + document[at:]
    return document[:at] + other[rng.randrange(len(other) + 1) :]
