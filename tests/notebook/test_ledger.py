"""Proves that a ledger counts each attempt once, in whatever order and however often it is told of it."""

from __future__ import annotations

import random

import msgspec
import pytest

from restate_nb.engine.record import CANCELLED, ERROR, OK, TIMEOUT, Attempt, Failure
from restate_nb.notebook.ledger import Ledger


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
