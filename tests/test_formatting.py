"""Numbers, times and foreign text as people read them."""

import time

import pytest

from restate_nb.formatting import duration, one_line, rate, two_digits


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (2e-5, "20 µs"),
        (9.996e-4, "1 ms"),
        (0.0034, "3.4 ms"),
        (0.9997, "1 s"),
        (1.25, "1.2 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3780, "1 h 03 min"),
        (86_390, "1 d 00 h"),
        (187_200, "2 d 04 h"),
        (float("inf"), "unknown"),
        (float("nan"), "unknown"),
    ],
)
def test_durations_as_people_say_them(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("per_second", "words"), [(150_000, "150,000/s"), (38.2, "38/s"), (1, "1/s"), (0.25, "15/min"), (0.005, "18/h")]
)
def test_rates_as_people_say_them(per_second, words):
    assert rate(per_second) == words


def test_numbers_keep_two_digits():
    assert [two_digits(x) for x in (9.94, 9.96, 100)] == ["9.9", "10", "100"]


def test_long_text_is_cut_without_reading_all_of_it():
    started = time.perf_counter()
    assert len(one_line("a b\n" * 20_000_000, 80)) <= 80
    assert time.perf_counter() - started < 0.5
