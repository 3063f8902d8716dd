"""Proves what a handle on a stored value is: it says what it is without reading, reads when it is asked, and belongs to
its process."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.store.base import NotStored
from restate_nb.store.stored import Stored
from restate_nb.values.reference import Reference, encode_reference, sum_of


def stored(content: bytes = b"abc", *, at: int = 0, what: str = "DataFrame, 100 x 3", size: int = 2_400_000) -> Stored:
    raw = encode_reference(Reference("f" * 32, "s" * 32, at, size, sum_of(content), what))

    def read(raw: bytes, position: int) -> Any:
        if content == b"gone":
            raise NotStored("there is no such segment")
        return content, position

    return Stored(raw, 7, read)


def test_its_repr_says_kind_shape_and_size() -> None:
    assert repr(stored()) == "<Stored DataFrame, 100 x 3, 2.4 MB>"
    assert repr(stored(what="", size=800)) == "<Stored value, 800 bytes>"
    assert (stored().what, stored().size) == ("DataFrame, 100 x 3", 2_400_000)


def test_it_is_read_anew_with_each_load() -> None:
    assert stored().load() == (b"abc", 7)


def test_a_value_that_is_gone_is_told_with_its_item_and_the_likely_reason() -> None:
    message = r"for item 7 \(DataFrame, 100 x 3, 2.4 MB\) is no longer in the store.*job was deleted.*no such segment"
    with pytest.raises(rnb.NotReadable, match=message):
        stored(b"gone").load()


def test_handles_are_equal_where_the_content_is_wherever_it_lies() -> None:
    assert stored() == stored(at=64)
    assert len({stored(), stored(at=64), stored(b"other")}) == 2
    assert stored() != stored(b"other")
    assert stored() != "abc"


def test_a_handle_is_its_own_copy_and_cannot_be_pickled() -> None:
    handle = stored()
    assert copy.copy(handle) is handle
    assert copy.deepcopy([handle])[0] is handle
    with pytest.raises(TypeError, match=r"Pass on what its load\(\) gives"):
        pickle.dumps(handle)
