"""Proves how frames are cut and read, what the shared memory tells of a worker, and how many items make a batch."""

from __future__ import annotations

import pytest

from restate_nb.engine import process_frames
from restate_nb.engine.process_feed import TARGET, Pace
from restate_nb.engine.process_frames import BATCH, BadFrame, Outcome, Reader, SharedMemory, framed


def outcome(position: int, value: bytes = b"1") -> Outcome:
    return Outcome(position, 1, 0, 0, 1.7e9, 0.5, value)


def read(reader: Reader, data: bytes) -> list[tuple[int, bytes]]:
    reader.feed(data)
    return list(reader)


def test_frames_are_read_in_whatever_pieces_they_come() -> None:
    group = [process_frames.encode_outcome(outcome(position)) for position in range(3)]
    sent = process_frames.outcomes_frame(7, group) + process_frames.number_frame(process_frames.RETURNED, 4)
    reader, found = Reader(), []
    for at in range(len(sent)):
        found += read(reader, sent[at : at + 1])
    assert found == read(Reader(), sent)
    (_, outcomes), (kind, number) = found
    assert process_frames.read_outcomes(outcomes) == process_frames.Outcomes(7, [outcome(each) for each in range(3)])
    assert (kind, process_frames.read_number(number)) == (process_frames.RETURNED, 4)


@pytest.mark.parametrize(
    "garbage", [b"hello world, this is text", b"rnb\xff\x05" + b"\xff" * 8, b"\0" * 13, framed(BATCH)]
)
def test_what_is_no_frame_is_refused_at_its_head(garbage: bytes) -> None:
    with pytest.raises(BadFrame):
        read(Reader(), garbage)


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\x92\x00\x91\x90", b"\x92\x00\x91\x97\xff\x01\x00\x00\x00\x00\xc4"]
)
def test_what_is_no_group_of_outcomes_is_refused(content: bytes) -> None:
    with pytest.raises(BadFrame):
        process_frames.read_outcomes(content)


def test_shared_memory_tells_which_item_runs_and_what_has_ended() -> None:
    shared = SharedMemory()
    assert (shared.begun(), shared.kept(), shared.count, shared.loading) == (None, None, 0, None)
    shared.begin(0, 11, 12)
    begun = shared.begun()
    assert begun is not None and (begun.serial, begun.stdout, begun.stderr) == (0, 11, 12)
    assert shared.keep(0, process_frames.encode_outcome(outcome(5)))
    shared.begin(1, 13, 14)
    assert shared.keep(1, process_frames.encode_outcome(outcome(6)))
    shared.end()
    assert (shared.begun(), shared.count) == (None, 2)
    assert shared.kept() == process_frames.Outcomes(0, [outcome(5), outcome(6)])
    shared.drop_kept()
    assert shared.kept() is None
    assert not shared.keep(2, b"x" * 1_000_000), "that is sent at once"
    shared.close()


def test_a_batch_has_the_work_of_a_moment_and_long_items_go_alone() -> None:
    pace = Pace()
    assert pace.count() == 1 and not pace.is_quick
    sizes = []
    for _ in range(6):
        count = pace.count()
        pace.sent(count, 10 * count)
        pace.learn(count, count * 40e-6)
        sizes.append(count)
    assert sizes == sorted(sizes) and pace.lasts(sizes[-1]) == pytest.approx(TARGET, rel=0.1)
    pace.sent(10, 10 * 1_000_000)
    assert pace.count() == 1, "nor more than a megabyte"
    for _ in range(20):
        pace.learn(1, 2.0)
    assert pace.count() == 1 and not pace.is_quick
