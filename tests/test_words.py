"""Proves that whoever brings the words of another library is told ours, before anything is started."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb import words
from restate_nb.session.session import Session

OURS = {
    "retries": (3, "retry=rnb.Retry(max_attempts=4)"),
    "max_attempts": (3, "retry=rnb.Retry(max_attempts=3)"),
    "max_workers": (8, "concurrency=8"),
    "n_jobs": (-1, 'executor="process"'),
    "processes": (4, 'executor="process", concurrency=4'),
    "backend": ("loky", 'executor="process"'),
    "prefer": ("threads", 'executor="thread"'),
    "chunksize": (10, "leave it out"),
    "return_exceptions": (True, "leave it out"),
    "progress": (False, "show=False"),
    "desc": ("pages", "name='pages'"),
    "rps": (5, "max_per_second=5"),
    "force": (True, "fresh=True"),
    "callback": (print, "rnb.as_completed(job)"),
    "concurency": (5, "Did you mean 'concurrency'?"),
    "Timeout": (5, "Did you mean 'timeout'?"),
}


@pytest.mark.parametrize("word", OURS)
@pytest.mark.parametrize("verb", [rnb.map, rnb.starmap], ids=["map", "starmap"])
def test_an_option_of_another_library_is_answered_with_ours(verb: Callable[..., Any], word: str) -> None:
    value, ours = OURS[word]
    with pytest.raises(rnb.UnknownOption, match=re.escape(ours)) as caught:
        verb(abs, [1], **{word: value})
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, rnb.InvalidInput)
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize("verb", [rnb.map, rnb.starmap, rnb.batch, rnb.fan_out, rnb.invoke, rnb.start])
def test_an_option_that_nobody_knows_is_answered_with_those_that_there_are(verb: Callable[..., Any]) -> None:
    known = [each for each in inspect.signature(verb).parameters if each not in ("fn", "items")]
    with pytest.raises(rnb.UnknownOption) as caught:
        verb(abs, zzz=1)
    assert all(each in str(caught.value) for each in known)


def test_no_word_of_others_is_an_option_or_an_attribute_of_ours(session: Session) -> None:
    """Else it would never be looked up."""
    job = rnb.map(abs, [1], session=session, show=False)
    job.result()
    assert not set(words.JOB) & {each for each in dir(rnb.Job) if not each.startswith("_")}
    assert not set(words.SESSION) & set(dir(session))
    assert not set(words.PACKAGE) & set(rnb.__all__)
    for verb in (rnb.map, rnb.batch, rnb.fan_out):
        assert not set(words.OPTIONS) & set(inspect.signature(verb).parameters)


def test_what_is_advised_is_there(session: Session) -> None:
    """Each `job.x`, `session.x` and `rnb.x` in the advice, and each option."""
    job = rnb.map(abs, [1], session=session, show=False)
    advice = [*words.JOB.values(), *words.SESSION.values(), *words.PACKAGE.values()]
    for given in (3, "x", True):
        advice += [each(given) if callable(each) else each for each in words.OPTIONS.values()]
    homes = {"job": job, "session": session, "rnb": rnb}
    named = {found for each in advice for found in re.findall(r"\b(job|session|rnb)\.(\w+)", each)}
    assert len(named) > 15
    assert all(hasattr(homes[home], name) for home, name in named)
    options = {found for each in advice for found in re.findall(r"\b(\w+)=", each)}
    known = {*inspect.signature(rnb.batch).parameters, "max_attempts", "ax", "figsize"}
    assert options <= known | {"session"}


def test_several_iterables_are_answered_with_starmap() -> None:
    with pytest.raises(rnb.UnknownOption, match=re.escape("rnb.starmap(fn, zip(a, b))")):
        rnb.map(pow, [1], [2])  # type: ignore[call-overload]
    with pytest.raises(rnb.UnknownOption, match=re.escape("rnb.map(fn, items)")):
        rnb.fan_out(abs, [1])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("results", "job.values()"),
        ("df", "job.frame()"),
        ("stop", "job.cancel()"),
        ("add_done_callback", "as_completed"),
    ],
)
def test_an_attribute_of_another_librarys_job_is_answered_with_ours(session: Session, name: str, ours: str) -> None:
    job = rnb.map(abs, [1], session=session, show=False)
    with pytest.raises(AttributeError, match=re.escape(ours)):
        getattr(job, name)


def test_a_misspelt_attribute_is_answered_with_the_nearest(session: Session) -> None:
    job = rnb.map(abs, [1], session=session, show=False)
    with pytest.raises(AttributeError, match="Did you mean 'timeline'"):
        job.timelines  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="Did you mean 'serve'"):
        session.serves  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="Did you mean 'starmap'"):
        rnb.starmaps  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(job, "_repr_svg_") and not hasattr(session, "_ipython_canary_method")


def test_a_methods_option_that_is_not_there_is_named(session: Session) -> None:
    job = rnb.map(abs, [1], session=session, show=False)
    with pytest.raises(rnb.UnknownOption, match=re.escape("result has no option 'expand'. It has timeout")):
        job.result(expand=True)  # type: ignore[call-arg]
    with pytest.raises(rnb.UnknownOption, match="of plt"):
        job.timeline(figsize=(4, 3))  # type: ignore[call-arg]


def test_a_session_sends_whoever_looks_for_verbs_to_the_package(session: Session) -> None:
    with pytest.raises(AttributeError, match=re.escape("rnb.map(...)")):
        session.map(abs, [1])  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=re.escape("rnb.fan_out")):
        session.submit(pow, 2, 3)  # type: ignore[attr-defined]


def test_the_items_of_several_jobs_come_as_they_end(session: Session) -> None:
    jobs = [rnb.map(abs, range(-count, 0), name=f"{count} items", session=session, show=False) for count in (3, 5)]
    rows = rnb.as_completed(jobs)
    assert len(rows) == 8
    assert sorted((row.job, row.value) for row in rows) == sorted(
        (f"{count} items", value) for count in (3, 5) for value in range(1, count + 1)
    )
    for wrong in (5, "job", [jobs[0], 5]):
        with pytest.raises(rnb.InvalidInput, match="as_completed takes a job"):
            rnb.as_completed(wrong)  # type: ignore[arg-type]
