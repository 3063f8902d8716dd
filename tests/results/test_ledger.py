"""Proves that a ledger counts each attempt once, in whatever order and however often it is told of it."""

from __future__ import annotations

import random
import tracemalloc

import msgspec
import pytest

from restate_nb.engine.outbox import FAIL_FAST
from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT, Attempt, Failure, Group
from restate_nb.results import failure_store, spool
from restate_nb.results import ledger as module
from restate_nb.results.ledger import PENDING, Ledger


def success(position: int, number: int = 1, started: float = 100.0) -> Attempt:
    return Attempt(position, number, OK, started, 0.5, msgspec.Raw(b"1"))


def failure(position: int, number: int = 1, started: float = 100.0, retry: bool = False) -> Attempt:
    return Attempt(position, number, ERROR, started, 0.5, failure=Failure("E", "m", retry_in=0.1 if retry else None))


def story(total: int, rng: random.Random) -> list[tuple[int, list[Attempt]]]:
    """Groups of two rounds: round 1 runs the failed items of round 0 again."""
    first: list[Attempt] = []
    again: list[Attempt] = []
    for position in range(total):
        kind = rng.choice(["ok", "flaky", "fails"])
        if kind == "ok":
            first.append(success(position))
        elif kind == "flaky":
            first += [failure(position, 1, retry=True), success(position, 2, 101.0)]
        else:
            first += [failure(position, 1, retry=True), failure(position, 2, 101.0)]
            again += [failure(position, 1, 200.0, retry=True), success(position, 2, 201.0)]
    return [(0, first[: total // 2]), (0, first[total // 2 :]), (1, again[:3]), (1, again[3:])]


@pytest.mark.parametrize("seed", range(20))
def test_attempts_count_once_in_any_order_and_told_any_number_of_times(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    groups = story(30, rng)
    reopened = sorted({each.position for _, group in groups[2:] for each in group})

    def told(order: list[tuple[int, list[Attempt]]], *, reopen_first: bool) -> Ledger:
        ledger = Ledger(30)
        if reopen_first:
            ledger.begin_round(1, reopened)
        for round_, group in order:
            if round_ == 1 and not reopen_first:
                ledger.begin_round(1, reopened)
            ledger.apply(round_, group, 0)
        return ledger

    oracle = told(groups, reopen_first=False)
    assert oracle.complete
    assert oracle.counts[OK] == 30
    shuffled = groups * 2
    rng.shuffle(shuffled)
    for order in (groups * 2, groups[::-1], shuffled):
        ledger = told(order, reopen_first=True)
        assert ledger.complete
        assert list(ledger.attempts) == list(oracle.attempts)
        assert list(ledger.ran_in_all) == pytest.approx(list(oracle.ran_in_all))
        assert list(ledger.first_started) == list(oracle.first_started)
        assert ledger.status == oracle.status
        assert ledger.failures == oracle.failures
        key = lambda each: (each.position, each.started)  # noqa: E731
        assert [key(each) for each in sorted(ledger.earlier, key=key)] == [
            key(each) for each in sorted(oracle.earlier, key=key)
        ]


def stories(rng: random.Random, total: int) -> list[tuple[int, list[Attempt]]]:
    """Groups of plain successes with some others among them: failures, retries, cancelled items, a further round, what
    came before, items that are there twice, and none of this job."""
    told: list[tuple[int, list[Attempt]]] = []
    for round_ in (0, 1, 0, 2):
        positions = rng.sample(range(total), rng.randrange(total // 2, total))
        group: list[Attempt] = []
        for position in positions:
            started = 100.0 * (round_ + 1) + rng.random()
            value = msgspec.Raw(b"%d" % rng.randrange(1000))
            if rng.random() > 0.04:
                group.append(Attempt(position, 1, OK, started, rng.random(), value))
            elif rng.random() < 0.3:
                group += [failure(position, 1, started, retry=True), success(position, 2, started + 1)]
            elif rng.random() < 0.3:
                group.append(failure(position, 1, started))
            elif rng.random() < 0.3:
                group.append(Attempt(position, 1, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", "")))
            elif rng.random() < 0.5:
                group += [Attempt(position, 1, OK, started, 0.5, value)] * 2
            else:
                group.append(Attempt(total + position, 1, OK, started, 0.5, value))
        size = rng.choice([5, 40, total])
        told += [(round_, group[at : at + size]) for at in range(0, len(group), size)]
    return told + rng.sample(told, len(told) // 2)


@pytest.mark.parametrize("seed", range(30))
def test_a_group_of_columns_tells_the_same_as_its_records_one_by_one(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    total = rng.choice([30, 400])
    by_row, by_column = Ledger(total), Ledger(total)
    for ledger in (by_row, by_column):
        ledger.attached_at = 100.8
    for number, (round_, attempts) in enumerate(stories(rng, total)):
        if rng.random() < 0.1:
            again = rng.sample(range(total), total // 4)
            by_row.begin_round(round_, again)
            by_column.begin_round(round_, again)
        by_row.apply(round_, attempts, 1_000.0 + number)
        by_column.apply(round_, Group.of(attempts), 1_000.0 + number)
        if rng.random() < 0.2:
            for ledger in (by_row, by_column):
                ledger.retime(attempts[0].position % total, 77.0, 3.5)
    assert by_column.snapshot() == by_row.snapshot()
    for name in (
        "status",
        "order",
        "failures",
        "earlier",
        "counts",
        "retries",
        "done",
        "recent",
        "last_end",
        "attached",
    ):
        assert getattr(by_column, name) == getattr(by_row, name), name
    assert by_column.percentiles() == by_row.percentiles()
    assert [by_column.tally(each) for each in range(3)] == [by_row.tally(each) for each in range(3)]
    assert by_column.busy([0.0] * 3, None) == by_row.busy([0.0] * 3, None)
    good = list(by_row.positions(OK))
    assert list(by_column.raws(good)) == list(by_row.raws(good))
    assert by_column.knows(range(total)) is by_row.knows(list(range(total)))


def test_the_columns_of_a_job_take_few_bytes_an_item() -> None:
    tracemalloc.start()
    ledger = Ledger(100_000)
    for begin in range(0, 100_000, 5_000):
        ledger.apply(0, Group.of([success(begin + each) for each in range(5_000)]), 0)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert ledger.complete
    assert kept < 50 * 100_000, "8 of them are counters that are written only when items are tried again"


def test_a_reopened_item_is_pending_and_its_failure_is_gone_from_the_counts() -> None:
    ledger = Ledger(2)
    ledger.apply(0, [failure(0), success(1)], 0)
    assert (ledger.failed, ledger.done, ledger.complete) == (1, 2, True)
    ledger.begin_round(1, [0])
    assert (ledger.failed, ledger.done, ledger.complete) == (0, 1, False)
    assert ledger.error_groups() == ()
    ledger.apply(1, [success(0, started=300.0)], 0)
    assert ledger.complete
    assert ledger.attempts[0] == 2
    assert len(ledger.earlier) == 1


def test_an_item_that_was_cancelled_before_it_began_has_no_attempt() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [Attempt(0, 1, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", ""))], 0)
    assert ledger.complete
    assert (ledger.attempts[0], ledger.failed, ledger.counts[CANCELLED]) == (0, 0, 1)


def test_a_timeout_is_a_failure() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [Attempt(0, 1, TIMEOUT, 100.0, 1.0, failure=Failure("ItemTimeout", "late"))], 0)
    assert ledger.failed == 1
    assert ledger.error_groups()[0].count == 1


def test_the_rate_is_of_the_last_ten_seconds() -> None:
    ledger = Ledger(1000)
    assert ledger.rate(100.0) is None
    for second in range(20):
        ledger.apply(0, [success(second * 10 + each) for each in range(10)], 100.0 + second)
    rate = ledger.rate(119.0)
    assert rate is not None
    assert 9 <= rate <= 11


def test_what_an_earlier_process_did_is_no_part_of_the_rate() -> None:
    ledger = Ledger(1000)
    ledger.attached_at = 200.0
    for group in (range(450), range(450, 900)):
        ledger.apply(0, [success(n, started=100.0) for n in group], now=201.0)
    ledger.apply(0, [success(n, started=201.0) for n in range(900, 910)], now=202.0)
    ledger.apply(0, [success(n, started=202.0) for n in range(910, 920)], now=203.0)
    assert ledger.attached == 900
    assert ledger.rate(203.0) == pytest.approx(10.0)


def test_a_position_out_of_range_is_ignored() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [success(5), success(-1)], 0)
    assert ledger.done == 0


def test_the_time_between_a_round_and_its_retry_does_not_count_as_work() -> None:
    ledger = Ledger(2)
    ledger.apply(0, [success(0, started=100.0), failure(1, started=102.0)], 0)
    assert ledger.busy([99.0], None) == 3.5
    ledger.begin_round(1, [1])
    assert ledger.busy([99.0, 5000.0], 5001.0) == 4.5
    ledger.apply(1, [success(1, started=5002.0)], 0)
    assert ledger.busy([99.0, 5000.0], None) == 6.0
    assert ledger.busy([99.0, 5000.0, 9000.0], None) == 6.0, "a round that has not run took no time"


def test_what_was_known_before_a_round_changes_nothing_when_it_is_told_again() -> None:
    ledger = Ledger(2)
    ledger.apply(0, [failure(0), success(1)], 0)
    ledger.begin_round(1, [0])
    ledger.apply(0, [failure(0), success(1)], 0)
    assert (ledger.done, ledger.attempts[0], len(ledger.earlier)) == (1, 1, 1)
    ledger.begin_round(1, [0])
    ledger.begin_round(0, [0, 1])
    assert (ledger.done, len(ledger.earlier)) == (1, 1), "a round that has begun does not begin again"
    ledger.apply(1, [failure(0, started=200.0)], 0)
    ledger.begin_round(1, [0])
    assert (ledger.done, ledger.failed) == (2, 1)


def test_a_round_that_another_process_began_opens_its_items_again() -> None:
    ledger = Ledger(3)
    ledger.apply(0, [failure(0), failure(1), success(2)], 0)
    ledger.apply(2, [failure(0, 1, 200.0, retry=True)], 0)
    assert (ledger.done, ledger.failed, ledger.status[0]) == (2, 1, PENDING)
    assert (ledger.attempts[0], ledger.retries) == (2, 1)
    ledger.apply(1, [failure(0, started=150.0)], 0)
    assert (ledger.done, ledger.attempts[0]) == (2, 3), "what came late of the round before is history"
    assert sorted(each.started for each in ledger.earlier) == [100.0, 150.0, 200.0]
    ledger.apply(2, [success(0, 2, 201.0)], 0)
    assert (ledger.done, ledger.failed, ledger.attempts[0], ledger.ran_in_all[0]) == (3, 1, 4, 2.0)
    assert (ledger.first_started[0], ledger.started[0]) == (100.0, 201.0)


def test_an_item_that_was_cancelled_before_it_began_leaves_no_history() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [Attempt(0, 1, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", ""))], 0)
    ledger.begin_round(1, [0])
    assert (ledger.done, ledger.earlier, ledger.counts[CANCELLED]) == (0, [], 0)
    ledger.apply(0, [Attempt(0, 2, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", ""))], 0)
    assert ledger.earlier == []


def test_the_last_attempt_of_an_item_has_the_number_of_all_and_the_times_of_its_own() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [failure(0, 1, 100.0, retry=True), failure(0, 2, 101.0)], 0)
    last = ledger.last(0)
    assert (last.number, last.status, last.started, last.ran) == (2, ERROR, 101.0, 0.5)
    assert last.failure == Failure("E", "m")
    assert (ledger.last_end, list(ledger.order)) == (101.5, [0])


def test_a_number_of_attempts_that_is_larger_than_its_column_is_kept() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [failure(0, 70_000)], 0)
    ledger.begin_round(1, [0])
    ledger.apply(0, [failure(0, 70_000)], 0)
    assert (ledger.done, len(ledger.earlier), ledger.attempts[0]) == (0, 1, 1)


def test_positions_begin_at_0_and_end_before_the_total() -> None:
    ledger = Ledger(2)
    ledger.apply(0, [success(2), success(0), success(-1), success(1)], 0)
    assert (ledger.done, list(ledger.order)) == (2, [0, 1])
    assert ledger.knows([0, 1]) and ledger.knows([])
    assert list(ledger.positions(OK)) == [0, 1]
    assert list(ledger.positions(ERROR, PENDING)) == []


def test_only_news_of_this_process_make_the_rate() -> None:
    ledger = Ledger(100)
    ledger.apply(0, [success(n) for n in range(10)], 0)
    ledger.apply(0, [success(n) for n in range(10, 12)], 100.0)
    ledger.apply(0, [success(n) for n in range(12)], 105.0)
    assert ledger.rate(105.0) is None, "one group is no rate; told again is nothing"
    ledger.apply(0, [success(n) for n in range(12, 32)], 110.0)
    assert ledger.rate(110.0) == pytest.approx(2.0), "the group of ten seconds ago is where it begins"
    assert ledger.rate(110.1) is None
    ledger.apply(0, [failure(40, retry=True)], 110.02)
    assert ledger.rate(110.1) is None, "an attempt that is followed by another is no end"
    ledger.apply(0, [success(32)], 110.04)
    assert ledger.rate(119.0) == pytest.approx(1 / 9)
    assert Ledger(3).rate(1.0) is None


def test_an_instant_has_no_rate() -> None:
    ledger = Ledger(100)
    ledger.apply(0, [success(0)], 100.0)
    ledger.apply(0, [success(1)], 100.04)
    assert ledger.rate(100.04) is None
    assert ledger.rate(100.5) == pytest.approx(2.0)


def test_long_jobs_forget_what_the_rate_no_longer_needs() -> None:
    ledger = Ledger(1000)
    for second in range(1000):
        ledger.apply(0, [success(second)], float(second + 1))
    assert len(ledger.recent) == 11


def test_percentiles_are_of_how_long_items_ran_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 200)
    ledger = Ledger(401)
    assert ledger.percentiles() == (None, None)
    ledger.apply(0, [failure(400, 1, retry=True), success(400, 2)], 0)
    assert ledger.percentiles() == (1.0, 1.0)
    ledger.apply(0, [Attempt(n, 1, OK, 100.0, float(n), msgspec.Raw(b"1")) for n in range(400)], 0)
    assert ledger.percentiles() == (300.0, 390.0), "of the latest ones only"


def test_kinds_of_error_are_told_by_type_and_message_the_most_frequent_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_store, "MAX_KINDS", 3)
    words = ["late", "late", "late", "gone", "gone", "full", "new", "late"]
    ledger = Ledger(len(words))
    failed = [Attempt(n, 1, ERROR, 100.0, 0.5, failure=Failure("E", word)) for n, word in enumerate(words)]
    ledger.apply(0, failed, 0)
    groups = [(each.message, each.count) for each in ledger.error_groups()]
    assert groups == [("late", 4), ("gone", 2), ("full", 1)], "a fourth kind is not counted, but those known are"
    assert len(ledger.error_groups(2)) == 2
    ledger.begin_round(1, [0, 5])
    assert [(each.message, each.count) for each in ledger.error_groups()] == [("late", 3), ("gone", 2)]
    assert ledger.failed == 6


def test_a_kind_of_error_shows_its_first_message() -> None:
    ledger = Ledger(2)
    ledger.apply(0, [Attempt(n, 1, ERROR, 1.0, 0.5, failure=Failure("E", f"item {n} is bad")) for n in range(2)], 0)
    assert [(each.error_type, each.message, each.count) for each in ledger.error_groups()] == [
        ("E", "item 0 is bad", 2)
    ]


def test_five_kinds_of_error_are_shown_unless_more_are_asked_for() -> None:
    ledger = Ledger(7)
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    ledger.apply(0, [Attempt(n, 1, ERROR, 1.0, 0.5, failure=Failure("E", word)) for n, word in enumerate(words)], 0)
    assert (len(ledger.error_groups()), len(ledger.error_groups(7))) == (5, 7)


def test_items_are_known_when_all_of_them_have_ended() -> None:
    ledger = Ledger(2)
    ledger.apply(0, [success(0)], 0)
    assert ledger.knows([0])
    assert not ledger.knows([0, 1])


def test_values_are_those_of_their_items_however_many_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "AT_ONCE", 3)
    ledger = Ledger(10)
    for n in (5, 0, 9, 3, 1, 2, 8, 4, 6, 7):
        ledger.apply(0, [Attempt(n, 1, OK, 1.0, 0.5, msgspec.Raw(b"%d" % n))], 0)
    assert list(ledger.raws(range(10))) == [b"%d" % n for n in range(10)]
    assert list(ledger.raws([7, 0])) == [b"7", b"0"]


def test_the_tally_of_a_round_leaves_out_what_was_cancelled() -> None:
    ledger = Ledger(4)
    cancelled = Attempt(3, 1, CANCELLED, 100.0, 0.5, failure=Failure("CancelledError", ""))
    ledger.apply(0, [failure(0), success(1), failure(2), cancelled], 0)
    assert ledger.tally(0) == (2, 3)
    ledger.apply(1, [success(0, started=200.0)], 0)
    assert (ledger.tally(0), ledger.tally(1), ledger.tally(2)) == ((2, 3), (0, 1), (0, 0))


def test_a_job_gave_up_in_the_round_in_which_its_rule_cancelled_items() -> None:
    ledger = Ledger(3)
    ledger.apply(0, [failure(0), Attempt(1, 1, CANCELLED, 0.0, 0.0, failure=Failure(FAIL_FAST, "too many"))], 0)
    assert (ledger.gave_up(0), ledger.gave_up(1)) == ("too many", None)
    assert Ledger(1).gave_up(0) is None
    ledger.begin_round(1, [1])
    assert ledger.gave_up(0) is None
    user = Ledger(2)
    user.apply(0, [Attempt(0, 1, ERROR, 1.0, 0.5, failure=Failure(FAIL_FAST, "an error of that name"))], 0)
    user.apply(0, [Attempt(1, 1, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", "cancelled"))], 0)
    assert user.gave_up(0) is None


def test_what_ended_before_this_process_came_is_attached() -> None:
    ledger = Ledger(3)
    ledger.attached_at = 100.5
    ledger.apply(0, [success(0, started=99.0), success(1, started=100.0), success(2, started=101.0)], 0)
    assert ledger.attached == 1, "an end at that very moment is ours"


def test_times_are_put_right_of_the_last_attempt_only() -> None:
    ledger = Ledger(3)
    ledger.apply(0, [success(0), failure(1, 1, 100.0, retry=True), success(1, 2, 101.0)], 0)
    for position in range(3):
        ledger.retime(position, 90.0, 2.0)
    assert list(ledger.started) == [90.0, 90.0, 0.0]
    assert list(ledger.ran) == [2.0, 2.0, 0.0]
    assert list(ledger.ran_in_all) == [2.0, 2.5, 0.0]
    assert list(ledger.first_started) == [90.0, 100.0, 0.0]


def test_what_never_began_has_no_times_to_put_right() -> None:
    ledger = Ledger(1)
    ledger.apply(0, [Attempt(0, 1, CANCELLED, 0.0, 0.0, failure=Failure("CancelledError", ""))], 0)
    ledger.retime(0, 90.0, 2.0)
    assert (ledger.started[0], ledger.ran[0], ledger.ran_in_all[0]) == (0.0, 0.0, 0.0)


def test_tracebacks_of_many_failures_are_kept_out_of_memory_and_each_is_found_again() -> None:
    ledger = Ledger(3_000)
    tracemalloc.start()
    for position in range(3_000):
        text = f"Traceback of {position if position % 2 else 0}\n" + "x" * 5_000
        why = Failure("ValueError", f"item {position}", "cell:1 in f", text)
        ledger.apply(0, [Attempt(position, 1, ERROR, 1.0, 0.5, failure=why)], 0)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 6_000_000, "15 MB of tracebacks"
    for position in (0, 1, 2, 1_501, 2_999):
        found = ledger.failures[position]
        assert found.traceback.startswith(f"Traceback of {position if position % 2 else 0}\n")
        assert (found.type, found.message, found.where) == ("ValueError", f"item {position}", "cell:1 in f")
    assert len(ledger.failures) == 3_000 and 2_999 in ledger.failures and 3_000 not in ledger.failures
    assert dict(ledger.failures)[1].traceback == ledger.failures[1].traceback


def test_failures_may_be_read_while_they_come() -> None:
    ledger = Ledger(10)
    ledger.apply(0, [failure(0, 1, 100.0)], 0)
    for position in ledger.failures:
        ledger.apply(0, [failure(position + 1, 1, 100.0)], 0)
    assert list(ledger.failures) == [0, 1]
