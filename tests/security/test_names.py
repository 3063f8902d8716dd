"""Proves that no text given as a name, a key or a value leaves its place: in paths, headers, SQL, files."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import hypothesis
import pytest
from hypothesis import strategies as st
from yarl import URL

import restate_nb as rnb
from restate_nb.errors import InvalidInput
from restate_nb.names import check_job_name, check_session_name
from restate_nb.server.address import link_path
from restate_nb.server.admin import sql_literal
from restate_nb.server.http import segment
from restate_nb.server.ingress import _target, written_key
from restate_nb.service.wire import items_service, job_key, jobs_service, shard_key
from restate_nb.session.session import Session

NASTY = [
    "'",
    "''",
    "' or 1=1 --",
    "\\'",
    "a;drop table state",
    "..",
    ".",
    "../..",
    "/",
    "%2e%2e",
    "%",
    "a%00b",
    "\r\nX: y",
]
NASTY += [
    "?a=b",
    "#",
    "\0",
    "é",
    "\u202e",
    " ",
    "  a ",
    "rnb-x-jobs",
    "x" * 300,
    "$(id)",
    "`id`",
    "{0}",
    "'\\''",
    "--",
    "*/",
]
texts = st.text(max_size=60).filter(lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text)
anything = st.sampled_from(NASTY) | texts | st.lists(st.sampled_from(NASTY), max_size=3).map("".join)

fixed = hypothesis.settings(max_examples=400, deadline=None, database=None, derandomize=True)  # the same ones each time


@fixed
@hypothesis.given(anything)
def test_a_session_name_is_a_word_or_refused(text: str) -> None:
    try:
        name = check_session_name(text)
    except InvalidInput:
        return
    assert re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,59}", name)
    for service in (items_service(name), jobs_service(name)):
        assert segment(service) == service and service.startswith("rnb-")


@fixed
@hypothesis.given(anything)
def test_a_job_name_is_one_line_of_text_or_refused(text: str) -> None:
    try:
        name = check_job_name(text)
    except InvalidInput:
        return
    assert name.isprintable() and 1 <= len(name) <= 200
    key = job_key(name, 1)
    assert key.isascii() and key.isprintable() and "%" not in key
    assert written_key(key) == key, "the same in a header and when a handler sends on"


@fixed
@hypothesis.given(anything, anything)
def test_two_jobs_never_have_a_key_in_common(one: str, other: str) -> None:
    if one != other:
        assert job_key(one, 1) != job_key(other, 1)
        assert shard_key(one, 1, 0, 0) != shard_key(other, 1, 0, 0)


@fixed
@hypothesis.given(anything, anything, anything)
def test_a_path_has_the_segments_that_are_meant_and_each_is_what_was_given(one: str, two: str, three: str) -> None:
    path = f"/restate/call/{_target(one, two, three)}"
    assert path.isascii() and path.isprintable() and " " not in path
    sent = URL("http://h" + path, encoded=True)
    assert (sent.raw_path, sent.query_string, sent.fragment, sent.host) == (path, "", "", "h")
    assert [unquote(part) for part in urlsplit("http://h" + path).path.split("/")[3:]] == [one, three, two]
    assert not {".", ".."} & set(path.split("/")), "nothing is taken for a step up"


@fixed
@hypothesis.given(anything.filter(bool))
def test_a_key_is_one_header_of_printable_ascii(text: str) -> None:
    written = written_key(text)
    assert written.isascii() and written.isprintable() and written == written.strip()
    assert unquote(written) == unquote(text) or unquote(written) == text


@fixed
@hypothesis.given(anything)
def test_a_literal_is_one_token_of_sql(text: str) -> None:
    """Within the quotes every quote is doubled, so that the first single one is the end."""
    literal = sql_literal(text)
    assert literal[0] == literal[-1] == "'"
    assert re.fullmatch("(?:[^']|'')*", literal[1:-1], re.DOTALL)
    assert literal[1:-1].replace("''", "'") == text


@pytest.mark.parametrize("text", [text for text in NASTY if text.isprintable() and text == text.strip()][:12])
def test_the_server_takes_such_names_for_what_they_are(session: Session, text: str) -> None:
    """A real job of that name: it is found by it, and its rows are asked for and deleted by it, and no others."""
    other = rnb.map(abs, [-1], name="another", session=session, show=False)
    other.result(20)
    job = rnb.map(abs, [-5], name=text, session=session, show=False)
    assert job.result(20)["value"].tolist() == [5]
    assert session.job(text) is job and text in set(rnb.jobs(session)["name"])
    job.delete()
    left = set(rnb.jobs(session)["name"])
    assert text not in left and "another" in left


@fixed
@hypothesis.given(anything.filter(lambda text: "\0" not in text))
def test_the_link_to_a_data_directory_lies_in_its_folder(text: str) -> None:
    link = link_path(Path("/tmp") / text)
    assert link.parent.parent == Path("/tmp") and re.fullmatch("[0-9a-f]{16}", link.name)
