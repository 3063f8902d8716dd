"""Proves that a value is pickled only where the user asked for it, and that nothing is unpickled otherwise: not in
JSON, not in a part, not by a reference, not in a column, wherever in a value it lies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.bulk import encode_many
from restate_nb.values.classes import Classes
from restate_nb.values.codec import calling, decode, decode_column, encode
from restate_nb.values.parts import is_joined, join
from restate_nb.values.reference import Reference, encode_reference, sum_of

RUN: list[str] = []


def told(word: str) -> str:
    RUN.append(word)
    return word


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, weight: int = 0) -> None:
        self.weight = weight

    def __reduce__(self) -> tuple[Any, ...]:
        return told, ("boom" + "!" * self.weight,)


class Model:
    """No class with fields."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights


def keeping(*, parts: bool = False, pickles: bool = True) -> Classes:
    classes = Classes()
    classes.keep_in(None, parts=parts, pickles=pickles)
    return classes


def stored(raw: bytes) -> tuple[bytes, Callable[[Reference], bytes]]:
    """A reference to a value, and what gives it."""
    return encode_reference(Reference("a", "b", 0, len(raw), sum_of(raw))), lambda _: raw


WAYS: dict[str, Callable[[bytes, Classes | None], object]] = {
    "one": decode,
    "called": lambda raw, classes: calling(lambda value: value, classes)(raw),
    "a column": lambda raw, classes: decode_column([b"1", raw, raw], classes),
    "a column of one": lambda raw, classes: decode_column([raw], classes),
}
VALUES = {
    "inline": (Bomb(), False),
    "in a list": ([1, Bomb()], False),
    "in a dict": ({"a": {"b": Bomb()}}, False),
    "a part": (Bomb(9_000), True),
    "joined": ([Bomb(), b"x" * 9_000], True),
    "in an array": (np.array([Bomb(), None], dtype=object), False),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("by_reference", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_nothing_is_unpickled_where_it_was_not_asked_for(name: str, by_reference: bool, way: str) -> None:
    value, parts = VALUES[name]
    raw = encode(value, keeping(parts=parts))
    assert is_joined(raw) == parts
    load = None
    if by_reference:
        raw, load = stored(raw if parts else join(raw, ()))
    plain = Classes(plain=True)
    others = [keeping(parts=True, pickles=False), Classes([Bomb]), plain] + ([] if by_reference else [None])
    RUN.clear()
    for classes in others:
        if classes is not None:
            classes.load = load
        with pytest.raises(NotReadable, match="pickle=True"):
            WAYS[way](raw, classes)
    assert RUN == []
    asked = keeping()
    asked.load = load
    WAYS[way](raw, asked)
    assert RUN


def test_nothing_is_pickled_where_it_was_not_asked_for() -> None:
    for value in (Model(1), [Model(1)], {"a": Model(1)}, np.array([Model(1)], dtype=object), lambda: 1):
        for classes in (None, keeping(parts=True, pickles=False)):
            with pytest.raises(NotEncodable):
                encode(value, classes)
            assert classes is None or encode_many([value], classes) is None


@pytest.mark.parametrize("parts", [False, True])
def test_what_has_no_other_form_comes_back_by_its_pickle(parts: bool) -> None:
    classes = keeping(parts=parts)
    weights = np.arange(3_000.0)
    value = {"model": Model(weights), "score": 0.5, "small": [Model(1)]}
    raw = encode(value, classes)
    assert is_joined(raw) == parts
    back = decode(raw, classes)
    assert np.array_equal(back["model"].weights, weights) and back["score"] == 0.5
    assert type(back["small"][0]) is Model


def test_only_what_has_no_form_is_pickled() -> None:
    raw = encode({"a": [1, (2, Model(3))], "b": np.arange(3)}, keeping())
    assert raw.count(b'"pickle"') == 1 and b'"tuple"' in raw and b'"ndarray"' in raw


def test_what_contains_itself_or_is_too_deep_is_pickled_as_a_whole() -> None:
    classes = keeping()
    endless: list[Any] = [1]
    endless.append(endless)
    back = decode(encode(endless, classes), classes)
    assert back[0] == 1 and back[1] is back
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert decode(encode(deep, classes), classes) == deep


def test_what_cannot_be_pickled_either_is_refused_in_words() -> None:
    for value in (threading.Lock(), [threading.Lock()], {"a": (threading.Lock(),)}):
        with pytest.raises(NotEncodable, match="cannot be pickled: TypeError"):
            encode(value, keeping())


def test_a_pickle_that_fails_is_not_readable() -> None:
    raw = encode(Bomb(), keeping())
    for damaged in (raw.replace(b'"v":"', b'"v":"AAAA'), raw.replace(b'"v":"gA', b'"v":"')):
        assert damaged != raw
        with pytest.raises(NotReadable, match="cannot be read here"):
            decode(damaged, keeping())


def test_what_was_asked_for_goes_with_the_classes_and_the_store_does_not() -> None:
    import pickle

    classes = Classes([Model])
    classes.keep_in(lambda _: b"", parts=True, pickles=True)
    other = pickle.loads(pickle.dumps(classes))
    assert (other.parts, other.pickles, other.load, list(other)) == (True, True, None, [Model])
