"""The record of a keyed job: how it grows, what it refuses, and that records of before are read as they were."""

from __future__ import annotations

import msgspec
import pytest

from restate_nb.service.keyed import MOST_RUNS, Grown, Keyed, KeyedRun
from restate_nb.service.wire import Change, Manifest, Round, Summary, apply_change, encode, manifest_decoder


def a_run(number: int, total: int, **counts: int) -> KeyedRun:
    known = {"rows": total, "kept": 0, "new": 0, "changed": 0, "dropped": 0}
    return KeyedRun(id=str(number), at=float(number), code="c", total=total, **(known | counts))


def a_job(total: int = 3) -> Manifest:
    return Manifest(
        name="job",
        function="fn",
        items="",
        options="",
        total=total,
        created=1.0,
        rounds=[Round(positions=None, code="c", started=1.0, total=total)],
        keyed=Keyed(by="id", tables=["t"], runs=[a_run(0, total, new=total)]),
    )


def growth(before: int, after: str, run: KeyedRun) -> Change:
    more = run.total - before
    round_ = Round(positions=None, code="c", started=2.0, total=run.total, first=before) if more else None
    return Change(generation=1, add_round=round_, grown=Grown(before=before, after=after, run=run, tables=["t", "u"]))


def test_a_job_that_grew_has_a_round_of_its_new_items_and_the_old_ones_stay() -> None:
    job = apply_change(a_job(), growth(3, "0", a_run(1, 5, new=2, kept=3)))
    assert job.total == 5
    assert [list(each.chosen(job.total)) for each in job.rounds] == [[0, 1, 2], [3, 4]]
    assert job.keyed is not None
    assert [each.id for each in job.keyed.runs] == ["0", "1"]
    assert job.keyed.tables == ["t", "u"]
    assert manifest_decoder.decode(encode(job)) == job


def test_of_two_that_grew_it_from_the_same_state_only_the_first_counts() -> None:
    job = apply_change(a_job(), growth(3, "0", a_run(1, 5, new=2)))
    before = encode(job)
    assert encode(apply_change(job, growth(3, "0", a_run(2, 4, new=1)))) == before
    assert encode(apply_change(job, growth(5, "0", a_run(3, 5)))) == before


def test_a_run_that_brings_nothing_new_adds_no_round() -> None:
    job = apply_change(a_job(), growth(3, "0", a_run(1, 3, kept=2, dropped=1)))
    assert (job.total, len(job.rounds)) == (3, 1)
    assert job.keyed is not None
    assert job.keyed.runs[-1].dropped == 1


def test_a_growth_whose_round_is_over_other_items_is_refused() -> None:
    change = growth(3, "0", a_run(1, 5, new=2))
    assert change.add_round is not None
    change.add_round.first = 2
    with pytest.raises(ValueError, match="3 items and would have 5"):
        apply_change(a_job(), change)


def test_a_job_without_keys_does_not_grow() -> None:
    job = msgspec.structs.replace(a_job(), keyed=None)
    assert apply_change(job, growth(3, "0", a_run(1, 5))).total == 3


def test_of_many_runs_the_first_and_the_latest_are_told_apart() -> None:
    job = a_job()
    for number in range(1, 2 * MOST_RUNS):
        job = apply_change(job, growth(2 + number, str(number - 1), a_run(number, 3 + number, new=1)))
    assert job.keyed is not None
    runs = job.keyed.runs
    assert len(runs) == MOST_RUNS
    assert (runs[0].id, runs[1].id, runs[-1].id) == ("0", str(MOST_RUNS + 1), str(2 * MOST_RUNS - 1))
    assert sum(each.runs for each in runs) == 2 * MOST_RUNS
    assert sum(each.new for each in runs) == job.total


def test_the_end_of_fewer_rounds_than_there_are_is_not_the_end_of_the_job() -> None:
    job = apply_change(a_job(), growth(3, "0", a_run(1, 5, new=2)))
    summary = Summary(ok=3, failed=0, cancelled=0, at=3.0)
    assert apply_change(job, Change(generation=1, summary=summary, of_rounds=1)).summary is None
    assert apply_change(job, Change(generation=1, summary=summary, of_rounds=2)).summary == summary


def test_a_round_of_a_record_of_before_is_over_all_items_there_are() -> None:
    old = b'{"positions":null,"code":"c","started":1.0}'
    assert list(msgspec.json.decode(old, type=Round).chosen(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("first", "total"), [(4, 3), (0, 9)])
def test_a_round_over_items_that_there_are_not_is_refused(first: int, total: int) -> None:
    job = a_job(5)
    job.rounds.append(Round(positions=None, code="c", started=1.0, total=total, first=first))
    with pytest.raises(msgspec.ValidationError, match="a round is over items"):
        manifest_decoder.decode(encode(job))
