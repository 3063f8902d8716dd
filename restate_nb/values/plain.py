"""Whether values are JSON's own through and through, so that they are written as they are.

Small containers are looked at one by one; of larger ones all that is on a level at once, by loops that are not
Python's. Whoever is told that a value is not plain looks at it closer: these functions never refuse anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from itertools import chain
from typing import Any, Final

import msgspec

from restate_nb.values.tags import TAG

LOWEST: Final = -(2**63)
HIGHEST: Final = 2**64 - 1
"""The whole numbers that are written as JSON's own."""

FEW: Final = 16
"""Up to so many, looking at each costs less than looking at all at once."""

AS_THEY_ARE: Final = frozenset({str, bool, type(None)})
SCALARS: Final = AS_THEY_ARE | {int, float}

HOLDERS: Final = frozenset({list, dict})
KEYS: Final = frozenset({str})
_NUMBERS: Final = frozenset({int, float, bool})
_MOST: Final = 10_000_000  # more on one level could not be kept; a list that holds itself many times would have more
_as_msgpack = msgspec.msgpack.Encoder().encode


def are_scalars(values: Collection[Any]) -> bool:
    """Whether all are text, truth values, None, or numbers that JSON has."""
    if len(values) > FEW:
        kinds = set(map(type, values))
        return kinds <= SCALARS and _are_kept(kinds, values)
    for each in values:
        kind = type(each)
        if kind is int:
            if not LOWEST <= each <= HIGHEST:
                return False
        elif kind is float:
            if each - each != 0:  # it is not finite
                return False
        elif kind not in AS_THEY_ARE:
            return False
    return True


def is_plain_dict(value: dict[Any, Any], room: int) -> bool:
    """Whether a dict is JSON's own, with what is in it. `room` is how many levels there may be."""
    if room <= 0:
        return False
    if len(value) > FEW:
        return KEYS.issuperset(map(type, value)) and TAG not in value and _are_plain(value.values(), room - 1)
    for key, each in value.items():
        if type(key) is not str:
            return False
        kind = type(each)
        if kind is int:
            if not LOWEST <= each <= HIGHEST:
                return False
        elif kind is float:
            if each - each != 0:
                return False
        elif kind not in AS_THEY_ARE and not (kind in HOLDERS and _CHECKS[kind](each, room - 1)):
            return False
    return TAG not in value


def is_plain_list(value: list[Any] | tuple[Any, ...], room: int) -> bool:
    """Whether a list, or the content of a tuple, is JSON's own, with what is in it. `room` as in `is_plain_dict`."""
    if room <= 0:
        return False
    if len(value) > FEW:
        return _are_plain(value, room - 1)
    for each in value:
        kind = type(each)
        if kind is int:
            if not LOWEST <= each <= HIGHEST:
                return False
        elif kind is float:
            if each - each != 0:
                return False
        elif kind not in AS_THEY_ARE and not (kind in HOLDERS and _CHECKS[kind](each, room - 1)):
            return False
    return True


_CHECKS: Final[dict[type, Callable[[Any, int], bool]]] = {list: is_plain_list, dict: is_plain_dict}


def _are_plain(values: Collection[Any], room: int) -> bool:
    """Whether these are JSON's own, all of one level at once."""
    kinds = set(map(type, values))
    holders = kinds - SCALARS
    if not holders:
        return _are_kept(kinds, values)
    if room <= 0 or not holders <= HOLDERS:
        return False
    lists = dicts = values
    if len(kinds) > 1:
        lists = [each for each in values if type(each) is list]
        dicts = [each for each in values if type(each) is dict] if dict in holders else ()
    elif dict in holders:
        lists = ()
    else:
        dicts = ()
    if sum(map(len, lists)) + sum(map(len, dicts)) > _MOST:
        return False
    if not KEYS.issuperset(map(type, chain.from_iterable(dicts))) or any(TAG in each for each in dicts):
        return False
    below = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, dicts))]
    return _are_plain(below, room - 1) and (len(kinds) == 1 or _are_kept(kinds, values))


def _are_kept(kinds: set[type], values: Iterable[Any]) -> bool:
    """Whether the numbers among values are such as JSON has. `kinds` are those of the values."""
    if float in kinds:
        floats = values if kinds <= _NUMBERS else [each for each in values if type(each) is float]
        try:
            if not math.isfinite(sum(floats)) and not all(map(math.isfinite, floats)):
                return False
        except OverflowError:  # of a whole number
            return False
    if int in kinds:
        ints = values if kinds <= SCALARS else [each for each in values if type(each) is int]
        try:
            _as_msgpack(ints if type(ints) is list else list(ints))  # it has the same whole numbers
        except (OverflowError, UnicodeEncodeError):
            return False
    return True
