"""Proves that a job whose items and values an earlier version has put into the store is attached to and finished.
`tests/data/make_stored.py` has made it."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from restate_nb.session.session import Session
from tests.data import make_stored

KEPT = sorted(make_stored.FOLDER.glob("stored-v*.tar.xz"))


def assert_same(found: Any, item: Any) -> None:
    if isinstance(item, pd.DataFrame):
        pd.testing.assert_frame_equal(found, item)
    elif isinstance(item, (tuple, dict)):
        assert type(found) is type(item)
        both = (each.values() if isinstance(each, dict) else each for each in (found, item))
        for one, other in zip(*both, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(found, item)


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_a_job_in_the_store_of_an_earlier_version_is_finished(kept: Path, tmp_path: Path) -> None:
    with tarfile.open(kept) as archive:
        archive.extractall(tmp_path, filter="data")
    make_stored.CALLS.clear()
    with Session("stored", tmp_path / ".restate", retention=make_stored.LONG) as session:
        read = session.job("described")
        job = make_stored.submit(session)
        assert job is read
        frame = job.result(60)
        store = session.connection.store
        assert store is not None
        assert len([*store.folders()]) == 1
    assert set(make_stored.CALLS) == set(range(make_stored.DONE, 6)), "nothing that was recorded runs again"
    for place, item in enumerate(make_stored.items()):
        value = frame["value"].iloc[place]
        assert value["place"] == place
        assert_same(value["item"], item)
        assert_same(frame["item"].iloc[place], item)
        assert_same(value["square"], np.arange(2_000) ** 2)


def test_every_version_of_stored_values_that_was_released_is_kept() -> None:
    from restate_nb.values import parts

    assert [path.name for path in KEPT] == [f"stored-v{n}.tar.xz" for n in range(1, parts.VERSION + 1)]
