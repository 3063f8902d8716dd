"""Proves that what `?` shows of every public name has an example, that these run, and that the tab key offers what is
public and nothing else."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import restate
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import restate_nb as rnb
from restate_nb.notebook import start
from restate_nb.notebook.session import Session

DURABLE = {"steps", "restart"}
METHODS = [
    (kind, name)
    for kind, names in ((rnb.Job, dir(rnb.Job)), (rnb.Session, ("call", "job", "serve", "stop")))
    for name in names
    if not name.startswith("_") and not isinstance(inspect.getattr_static(kind, name), property)
]
FUNCTIONS = [
    name
    for name in rnb.__all__
    if not (isinstance(getattr(rnb, name), type) and issubclass(getattr(rnb, name), BaseException))
]


def example(thing: object) -> str:
    """The code of a docstring's example."""
    found = re.search(r"\n *Examples?:\n((?:\n| +.*\n?)+)", inspect.getdoc(thing) or "")
    assert found is not None, f"{thing} has no example"
    return textwrap.dedent(found[1])


@pytest.fixture
def here(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples may use; files go to a directory of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "_current", session)
    monkeypatch.setattr(start, "start", lambda: session)
    monkeypatch.setattr(rnb, "start", lambda: session)
    yield {"session": session, "rnb": rnb}


@pytest.fixture
def job(here: dict[str, Any]) -> rnb.Job[Any]:
    """A finished job, of which some items failed."""

    def half(item: int) -> float:
        print("half of", item)
        return item / 2 if item % 3 else 1 / 0

    job = rnb.map(half, {"Bonn": 1, "Ulm": 2, "Kiel": 3}, fresh=True, name="lengths", show=False)
    job.result(20)
    return job


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda each: each if isinstance(each, str) else each.__name__)
def test_the_example_of_every_method_runs(
    here: dict[str, Any], job: rnb.Job[Any], kind: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = example(getattr(kind, name))
    greeter = restate.Service("greeter")

    @greeter.handler()
    async def greet(ctx: restate.Context, name: str) -> str:
        return f"Hello {name}"

    here["session"].serve(greeter)
    here["greet"] = greet
    if name == "values":
        job = rnb.map(len, ["a", "bb"], show=False)
    elif name in DURABLE:
        job = rnb.map(greet, ["Ada"], show=False)
        job.result(20)
    if kind is rnb.Session and name == "stop":
        with Session("stopped", Path(".restate").absolute()) as other:
            monkeypatch.setattr(rnb, "start", lambda: other)
            exec(code, here)
            assert not other.live
        return
    exec(code, here | {"job": job})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_name_has_an_example(name: str) -> None:
    code = example(getattr(rnb, name))
    compile(re.sub(r"^>>> |^\.\.\. ", "", code, flags=re.M), name, "exec")


@pytest.mark.parametrize("name", ["Job", "Session", "job", "jobs", "compare", "compare_chart", "as_completed", "map"])
def test_examples_with_a_session_run(here: dict[str, Any], job: rnb.Job[Any], name: str) -> None:
    exec(example(getattr(rnb, name)), {})


def test_the_tab_key_offers_what_is_public_and_nothing_else(job: rnb.Job[Any], session: Session) -> None:
    shell = InteractiveShell()
    shell.user_ns.update(job=job, session=session, rnb=rnb)

    def offered(text: str) -> set[str]:
        with provisionalcompleter():
            return {each.text for each in shell.Completer.completions(text, len(text))}

    assert offered("rnb.") == set(rnb.__all__)
    assert offered("session.") == set(dir(session))
    assert not {name for name in offered("session.") if name.startswith("_")} | ({"submit"} & offered("session."))
    assert offered("job.") == {name for name in dir(rnb.Job) if not name.startswith("_")}
    for name in offered("job."):
        assert inspect.getdoc(inspect.getattr_static(rnb.Job, name)), name
    shell.history_manager.end_session()  # type: ignore[union-attr]
