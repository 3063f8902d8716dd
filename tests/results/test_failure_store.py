"""Failures are sorted as people sort them: names, numbers and places make no new kind, a status of HTTP does."""

from __future__ import annotations

import pytest

from restate_nb.results.failure_store import kind_of

SAME = [
    ("No user 'ada' (id 17)", "No user 'bob' (id 9)"),
    ("404 is odd", "405 is odd"),
    ("invalid syntax (a.py, line 3)", "invalid syntax (b.py, line 30)"),
    ("429, message='Too Many Requests', url='http://a/1'", "429, message='Too Many Requests', url='http://a/2'"),
    ("took 431 ms", "took 512 ms"),
]
OTHER = [
    ("429, message='Too Many Requests', url='http://a/1'", "500, message='Internal Server Error', url='http://a/1'"),
    ("429 Client Error: Too Many Requests for url: http://a/1", "404 Client Error: Not Found for url: http://a/1"),
    ("Client error '429 Too Many Requests' for url 'http://a/1'", "Client error '404 Not Found' for url 'http://a/1'"),
    ("Error code: 429 - {'error': 'slow'}", "Error code: 400 - {'error': 'slow'}"),
    ("HTTP Error 404: Not Found", "HTTP Error 503: Not Found"),
    ("the status 404 came", "the status 500 came"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_differs_from_item_to_item_makes_no_new_kind(one, other):
    assert kind_of(one) == kind_of(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_status_of_an_http_answer_is_another_kind(one, other):
    """As aiohttp, requests, httpx, openai and urllib put it."""
    assert kind_of(one) != kind_of(other)
