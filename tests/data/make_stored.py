"""Makes the data directory of a job whose items and values lie in the store: `python -m tests.data.make_stored`, in a
checkout of the version to be kept. `tests/durability/test_stored_upgrades.py` reads it.

`stored-v1.tar.xz`: named after the format of values with parts (`values/parts.py`). It is kept for as long as a release
reads that format; make it anew only for a new format, under a new name.
"""

from __future__ import annotations

import importlib
import os
import tarfile
import tempfile
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import restate_nb as rnb
from restate_nb.session.session import Session

FOLDER = Path(__file__).parent
STORED = FOLDER / "stored-v1.tar.xz"
CALLS = Counter[int]()
LONG = timedelta(days=365 * 100)  # the outcomes in the file must outlive it
DONE = 3  # of the items, in the file


def making() -> bool:
    """Whether the job is to be cut off. A variable of the module would count as a part of its function."""
    return "RNB_MAKES_SAMPLES" in os.environ


def items() -> list[Any]:
    """Arrays, a table, a text, and what is small."""
    table = pd.DataFrame({"number": np.arange(2_000), "text": ["a", "b"] * 1_000})
    return [np.arange(2_000), table, "x" * 40_000, {"b": np.ones(2_000)}, (table, 5), 6]


def described(item: Any) -> dict[str, Any]:
    place = next(at for at, each in enumerate(items()) if repr(each) == repr(item))
    CALLS[place] += 1
    if making() and place >= DONE:
        time.sleep(3600)
    return {"place": place, "item": item, "square": np.arange(2_000) ** 2}


def submit(session: Session) -> rnb.Job[Any]:
    """The job; the same cell in the notebook that makes it and in the one that goes on with it."""
    return rnb.map(described, items(), name="described", concurrency=1, session=session, show=False)


def make() -> None:
    """Run the job to where it is cut off, and pack the directory."""
    machine_made = {"restate-server.log", "LOG", "identity.pem", "server.json"}  # paths; a private key
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with Session("stored", folder / ".restate", retention=LONG) as session:
            job = submit(session)
            while job.counts["ok"] < DONE:
                time.sleep(0.01)
            time.sleep(0.5)
        with tarfile.open(STORED, "w:xz", preset=9) as archive:
            for path in sorted((folder / ".restate").rglob("*")):
                if path.is_file() and path.name not in machine_made:
                    archive.add(path, path.relative_to(folder), filter=_anonymous)
    print(f"{STORED.name}: {STORED.stat().st_size:,} bytes")


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    os.environ["RNB_MAKES_SAMPLES"] = "1"
    importlib.import_module("tests.data.make_stored").make()  # so that its function is known by that name
    os._exit(0)  # a thread sleeps on
