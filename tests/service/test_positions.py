"""Proves that the items of a round are written so compactly that many rounds over many items stay small."""

from __future__ import annotations

import base64
import random
import zlib

import pytest

from restate_nb.service.positions import check, pack, unpack
from restate_nb.service.wire import Change, Manifest, Round, apply_change, encode, manifest_decoder


def test_positions_come_back_ascending() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(200):
        total = rng.choice([1, 7, 8, 9, 100, 5_000])
        chosen = rng.sample(range(total), rng.randint(0, total))
        packed = pack(chosen, total)
        check(packed, total)
        assert unpack(packed, total) == sorted(chosen), (total, chosen)


@pytest.mark.parametrize(
    "packed",
    [
        "no base64 !",
        base64.b64encode(b"not compressed").decode(),
        base64.b64encode(zlib.compress(bytes(100)))[:-8].decode(),  # cut short
        base64.b64encode(zlib.compress(bytes(50_000_000))).decode(),  # far more than there are items
        pack([8], 9),
    ],
)
def test_what_are_no_positions_among_so_many_items_is_refused(packed: str) -> None:
    for read in (check, unpack):
        with pytest.raises(ValueError, match="these are no positions"):
            read(packed, 8)


def test_a_position_that_does_not_exist_cannot_be_written() -> None:
    for wrong in (-1, 8):
        with pytest.raises(IndexError, match="there are 8 items"):
            pack([wrong], 8)


def test_twelve_rounds_over_half_of_a_million_items_fit_into_a_record() -> None:
    rng, total = random.Random(5), 1_000_000
    first = Round(positions=None, code="c", started=0.0)
    manifest = Manifest(name="n", function="f", items="", options="", total=total, created=0.0, rounds=[first])
    chosen = rng.sample(range(total), total // 2)
    round_ = Round.over(chosen, total, code="c", started=1.0)
    for _ in range(12):
        manifest = apply_change(manifest, Change(generation=1, add_round=round_))
    record = encode(manifest)
    assert len(record) < 2_500_000
    assert manifest_decoder.decode(record).rounds[12].chosen(total) == sorted(chosen)


def test_rounds_of_before_have_their_positions_as_numbers_and_in_their_order() -> None:
    round_ = Round(positions=[3, 1], code="c", started=0.0)
    assert round_.chosen(4) == [3, 1]
    assert Round(positions=None, code="c", started=0.0).chosen(4) == range(4)
