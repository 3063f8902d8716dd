"""Proves that a policy is parsed once, when it is made: it keeps what was given, and holds what that means."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import timedelta
from typing import Any

import pytest

from restate_nb.errors import InvalidInput
from restate_nb.limits import AUTO, Range, Rate, StopRule
from restate_nb.policy import Limit, Retry, RunPolicy
from restate_nb.validation import concurrency_range, rate


@pytest.mark.parametrize(
    ("given", "read"), [(5, (5, 1.0)), (2.5, (2, 0.8)), (0.1, (1, 10.0)), ((10, 60), (10, 60.0)), (1e4, (10_000, 1.0))]
)
def test_rates_as_people_write_them(given: Any, read: tuple[int, float]) -> None:
    assert tuple(rate("max_per_second", given)) == pytest.approx(read)


def test_concurrency_as_people_write_it() -> None:
    assert concurrency_range("concurrency", 7) == (7, 7)
    assert concurrency_range("concurrency", (2, 9)) == (2, 9)
    assert concurrency_range("concurrency", "auto") == AUTO


def test_a_policy_keeps_what_was_given_and_holds_what_it_means() -> None:
    policy = RunPolicy("auto", timeout=timedelta(minutes=1), max_per_second=(10, timedelta(minutes=1)), fail_fast=0.1)
    assert (policy.concurrency, policy.timeout, policy.fail_fast) == ("auto", 60.0, 0.1)
    assert (policy.bounds, policy.rate, policy.stop_rule) == (AUTO, Rate(10, 60.0), StopRule(share=0.1))
    assert policy == RunPolicy("auto", timeout=60, max_per_second=(10, timedelta(minutes=1)), fail_fast=0.1)
    assert "bounds" not in repr(policy)
    plain = RunPolicy(20)
    assert (plain.concurrency, plain.bounds, plain.rate, plain.stop_rule) == (20, Range(20, 20), None, None)


def test_a_changed_policy_is_parsed_anew() -> None:
    policy = dataclasses.replace(RunPolicy(20, fail_fast=True), concurrency=(1, 5), fail_fast=3)
    assert (policy.bounds, policy.stop_rule) == (Range(1, 5), StopRule(failures=3))
    with pytest.raises(InvalidInput, match="timeout must be more than 0 seconds"):
        dataclasses.replace(policy, timeout=-1)
    assert pickle.loads(pickle.dumps(policy)).bounds == Range(1, 5)


def test_a_retry_has_its_times_in_seconds_and_its_exceptions_in_a_tuple() -> None:
    retry = Retry(2, timedelta(seconds=3), retry_on=OSError)
    assert (retry.initial_interval, retry.max_interval) == (3.0, 60.0)
    assert (retry.retry_on, retry.give_up_on) == ((OSError,), ())
    assert pickle.loads(pickle.dumps(retry)) == retry and hash(retry) == hash(Retry(2, 3, retry_on=(OSError,)))


def test_the_rate_of_a_job_is_the_lower_of_its_own_and_its_limits() -> None:
    limit = Limit("api", per_second=2)
    assert (limit.per_second, limit.rate) == (2, Rate(2, 1.0))
    assert RunPolicy(max_per_second=5, limit=limit).per_second == 2
    assert RunPolicy(max_per_second=(60, 60), limit=limit).per_second == 1
    assert RunPolicy(limit=Limit("api", concurrency=3)).per_second is None
