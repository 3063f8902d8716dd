"""How fast a job goes, and how long it may still take, known in constant space."""

import pytest

from restate_nb.panel.trend import Trend
from tests.panel.played import progress


def test_a_trend_begins_when_the_job_was_attached_to():
    trend = Trend()
    for second in range(20):
        trend.add(progress(ok=940 + second, attached=940, elapsed=86_400.0 + second))
    assert len(trend.rates()) > 30
    assert trend.rates()[5:] == pytest.approx([1.0] * (len(trend.rates()) - 5))


def test_what_an_earlier_process_did_is_no_throughput_even_when_it_is_heard_of_late():
    trend = Trend()
    trend.add(progress(elapsed=500.0))
    for second in range(20):
        trend.add(progress(ok=940 + second, attached=940, elapsed=501.0 + second))
    assert max(trend.rates()) == pytest.approx(1.0)


def test_a_trend_covers_any_length_in_constant_space():
    trend = Trend()
    for second in range(100_000):
        trend.add(progress(total=10**7, ok=5 * second, elapsed=float(second)))
    rates = trend.rates()
    assert 29 <= len(rates) <= 60
    assert all(r == pytest.approx(5, rel=0.01) for r in rates[1:])
    assert trend.eta_range(1000) == pytest.approx((200, 200), rel=0.01)


def test_a_trend_without_a_history_promises_nothing():
    trend = Trend()
    trend.add(progress(ok=10, attached=10, elapsed=0.2))
    assert trend.rates() == []
    assert trend.eta_range(10) is None


def test_a_retry_is_no_negative_throughput():
    trend = Trend()
    for elapsed, done in ((1.0, 10), (2.0, 4), (3.0, 10)):
        trend.add(progress(ok=done, elapsed=elapsed))
    assert min(trend.rates()) >= 0
