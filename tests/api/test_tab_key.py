"""Proves that the tab key offers what is public, with help for each name, and nothing else."""

from __future__ import annotations

import inspect

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import restate_nb as rnb
from restate_nb.session.session import Session


@pytest.mark.usefixtures("jedi_ends")
def test_the_tab_key_offers_what_is_public_and_nothing_else(session: Session) -> None:
    shell = InteractiveShell()
    job = rnb.map(len, ["Bonn", "Ulm"], session=session, show=False)
    shell.user_ns.update(job=job, session=session, rnb=rnb)

    def offered(text: str) -> set[str]:
        with provisionalcompleter():
            return {each.text for each in shell.Completer.completions(text, len(text))}

    assert offered("rnb.") == set(rnb.__all__)
    assert offered("session.") == set(dir(session))
    assert not {name for name in offered("session.") if name.startswith("_")} | ({"submit_job"} & offered("session."))
    assert offered("job.") == {name for name in dir(rnb.Job) if not name.startswith("_")}
    for name in offered("job."):
        assert inspect.getdoc(inspect.getattr_static(rnb.Job, name)), name
    shell.history_manager.end_session()  # type: ignore[union-attr]
