"""Proves on the real server which job a cell finds: never one of other code or content, and again the one whose
function has changed only what it changes itself; and that what is older is said."""

# ruff: noqa: E501 - sources are read in one line

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb.handle.job import runner_of
from restate_nb.service.variants import Variant, Vary, claim_variant, find_variant, note_varying
from restate_nb.service.wire import Manifest
from restate_nb.session.session import Session
from tests.support import defined, submit


def restarted(session: Session) -> None:
    """Let the session forget what it knows of its jobs, as if this were another process."""
    session.forget_handles()


# ---------------------------------------------------------------- without a name


VARYING = {
    "a list that it appends to": "seen = []\ndef f(x):\n    seen.append(x)\n    return x",
    "a dict that it fills": "cache = {}\ndef f(x):\n    cache[str(x)] = x\n    return x",
    "a number that it counts up": "n = 0\ndef f(x):\n    global n\n    n += 1\n    return x",
    "a client that it makes": "client = None\ndef f(x):\n    global client\n    client = client or {'a': x}\n    return x",
    "an attribute of its object": "class M:\n    def __init__(self): self.calls = 0\n    def go(self, x):\n        self.calls += 1\n        return x\nm = M()\nf = m.go",
    "an attribute of a class": "class M:\n    calls = 0\ndef f(x):\n    M.calls += 1\n    return x",
    "a default that can change": "def f(x, seen=[]):\n    seen.append(x)\n    return x",
    "a closed-over number": "def make():\n    n = 0\n    def f(x):\n        nonlocal n\n        n += 1\n        return x\n    return f\nf = make()",
    "an attribute of its own": "def f(x):\n    f.calls += 1\n    return x\nf.calls = 0",
    "a random generator": "import random\nrng = random.Random(1)\ndef f(x):\n    rng.random()\n    return x",
    "a generator of numpy": "import numpy\nrng = numpy.random.default_rng(1)\ndef f(x):\n    rng.random()\n    return x",
    "a cache of functools": "import functools\n@functools.cache\ndef f(x):\n    return x",
    "an argument that is bound": "import functools\ndef g(seen, x):\n    seen.append(x)\n    return x\nf = functools.partial(g, [])",
}  # fmt: skip


@pytest.mark.parametrize("what", VARYING)
def test_what_the_function_itself_changes_does_not_count(what: str, session: Session) -> None:
    source = f"WHAT = {what!r}\n" + VARYING[what].replace("return x", "return WHAT and x")
    space = defined(source)
    job = submit(session, space["f"], [1, 2, 3])
    assert job.values() == [1, 2, 3]
    assert submit(session, space["f"], [1, 2, 3]) is job, "run again in this kernel"
    restarted(session)
    again = submit(session, space["f"], [1, 2, 3])
    assert (again.name, again.result(10)["value"].tolist(), again.attached) == (job.name, [1, 2, 3], 3)
    fresh = submit(session, defined(source)["f"], [1, 2, 3])
    assert fresh.name == job.name, "all cells run again"


def test_what_is_changed_while_the_job_runs_is_the_functions_own_doing(session: Session) -> None:
    gate = threading.Event()
    seen: list[int] = []

    def work(item: int) -> int:
        seen.append(item)
        gate.wait(20)
        return item

    job = submit(session, work, [1, 2, 3])
    while len(seen) < 3:
        time.sleep(0.005)
    again = submit(session, work, [1, 2, 3])
    gate.set()
    assert again is job
    assert job.values() == [1, 2, 3]
    assert submit(session, work, [1, 2, 3]) is job
    assert runner_of(job).data.manifest.varies == ["work.seen"]


def test_what_the_user_changes_makes_another_job(session: Session) -> None:
    source = "cfg = {'p': 'a'}\nclass M:\n    k = 1\n    def __init__(self):\n        self.calls, self.f = 0, 2\n"
    source += "m = M()\ndef f(x):\n    m.calls += 1\n    return cfg['p'], m.f * x * M.k\n"
    space = defined(source)
    f, m = space["f"], space["m"]
    names = [submit(session, f, [1]).values()]

    def now() -> list[Any]:
        return submit(session, f, [1]).values()

    assert now() == names[0] == [("a", 2)]
    space["cfg"]["p"] = "b"
    assert now() == [("b", 2)]
    m.f = 3
    assert now() == [("b", 3)]
    space["M"].k = 10
    assert now() == [("b", 30)]
    space["cfg"] = {"p": "a"}
    space["M"].k, m.f = 1, 2
    before = m.calls
    assert now() == [("a", 2)]
    assert m.calls == before, "it is the first job again, whatever the counter says"


def test_a_name_bound_anew_while_the_job_runs_makes_another_job_and_spoils_it(session: Session) -> None:
    gate = threading.Event()
    space = defined("cfg = {'p': 1}\ndef f(x):\n    wait(x)\n    return cfg['p']\n", wait=lambda x: x and gate.wait(20))
    job = submit(session, space["f"], [0, 1])
    while job.counts["ok"] < 1:
        time.sleep(0.005)
    space["cfg"] = {"p": 2}
    other = submit(session, space["f"], [0, 1])
    gate.set()
    assert other.name != job.name
    assert other.values() == [2, 2]
    assert job.values() == [1, 2], "it reads the name when it runs"
    assert "changed while it ran" in repr(job.identity())
    space["cfg"] = {"p": 1}
    again = submit(session, space["f"], [0, 1])
    assert again.values() == [1, 1], "what is of two contents is no answer for either"
    assert again.name == job.name


def test_a_job_killed_in_the_middle_goes_on_though_its_content_had_changed(tmp_path: Path) -> None:
    program = tmp_path / "cells.py"
    program.write_text(
        """
import random, sys, time
import restate_nb as rnb
from restate_nb.handle.job import runner_of
rnb.start("killed", data_dir="data")
rng = random.Random()  # another one in each process
def f(x):
    rng.random()
    time.sleep(0.02)
    return x
job = rnb.map(f, range(120), concurrency=2, show=False)
if len(sys.argv) > 1:
    while not runner_of(job).data.manifest.varies:
        time.sleep(0.05)
    print(job.name, flush=True)
    time.sleep(60)
job.result(30)
print(job.name, job.attached > 0)
"""
    )
    with subprocess.Popen(
        [sys.executable, program, "killed"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        name = first.stdout.readline().strip()
        os.kill(first.pid, signal.SIGKILL)
    ended = subprocess.run([sys.executable, program], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert ended.stdout.split()[-2:] == [name, "True"]


def test_a_variant_is_found_by_what_does_not_vary() -> None:
    one = Variant(job="a", parts={"cfg": "d1", "seen": "d1"}, at=1.0)
    kept, job = claim_variant([], one)
    assert job == "a"
    other = Variant(job="b", parts={"cfg": "d1", "seen": "d2"}, at=2.0)
    assert claim_variant(kept, other)[1] == "b"
    kept = note_varying(kept, Vary(job="a", varies=["seen"]))
    assert claim_variant(kept, other)[1] == "a"
    assert claim_variant(kept, msgspec.structs.replace(other, parts={"cfg": "d2", "seen": "d1"}))[1] == "b"
    many: list[Variant] = []
    for number in range(500):
        many, _ = claim_variant(many, Variant(job=str(number), parts={"cfg": f"d{number}"}, at=float(number)))
    assert len(many) <= 200
    assert find_variant(many, Variant(job="x", parts={"cfg": "d499"}, at=0.0)) is not None


# ---------------------------------------------------------------- with a name


def test_a_finished_job_whose_function_has_changed_says_so(session: Session) -> None:
    space = defined("RATE = 1\ndef helper(x): return x\ndef f(x): return helper(x) * RATE")
    job = submit(session, space["f"], [1, 2, 3], name="edited")
    assert job.values() == [1, 2, 3]
    assert submit(session, space["f"], [1, 2, 3], name="edited").progress().note == ""
    exec("def f(x): return -helper(x) * RATE", space)
    with pytest.warns(rnb.OlderResults, match="'edited': the results are of an older `f`") as caught:
        rnb.map(space["f"], [1, 2, 3], session=session, show=False, name="edited")
    assert caught[0].filename == __file__
    assert "of an older `f`" in job.progress().note
    exec("def f(x): return helper(x) * RATE\ndef helper(x): return x + 1", space)
    with pytest.warns(rnb.OlderResults, match="of an older `helper`"):
        submit(session, space["f"], [1, 2, 3], name="edited")
    exec("def helper(x): return x\nRATE = 2", space)
    with pytest.warns(rnb.OlderResults, match="`RATE` has changed since"):
        submit(session, space["f"], [1, 2, 3], name="edited")
    restarted(session)
    with pytest.warns(rnb.OlderResults, match="`RATE` has changed since"):
        again = submit(session, space["f"], [1, 2, 3], name="edited")
    assert again.values() == [1, 2, 3]
    states = again.identity().frame().set_index("name")["state"].to_dict()
    assert states == {"f": "", "helper": "", "RATE": "changed since"}
    assert "changed since" in again.identity()._repr_html_()
    space["RATE"] = 1
    assert submit(session, space["f"], [1, 2, 3], name="edited").values() == [1, 2, 3]


def test_rows_tell_which_code_they_are_of_and_the_older_ones_can_be_run_again(session: Session) -> None:
    gate, ran = threading.Event(), []
    names = {"gate": gate, "ran": ran}
    source = "def f(x):\n    ran.append(x)\n    assert x < 1 or gate.wait(20)\n    return x\n"
    space = defined(source, **names)
    job = submit(session, space["f"], [0, 1, 2, 3], name="halves", concurrency=1)
    while job.counts["ok"] < 1:
        time.sleep(0.005)
    exec(source.replace("return x", "return -x"), space)
    with pytest.warns(rnb.OlderResults, match="what is done is of an older `f`"):
        again = submit(session, space["f"], [0, 1, 2, 3], name="halves", concurrency=1)
    gate.set()
    frame = again.result(20)
    assert again is job
    assert frame["value"].tolist() == [0, 1, -2, -3], "what ran then was of the older one"
    assert frame["code"].iloc[:2].nunique() == frame["code"].iloc[2:].nunique() == 1
    assert frame["code"].nunique() == 2
    assert "2 of 4 are of other code" in job.progress().note
    restarted(session)
    found = submit(session, space["f"], [0, 1, 2, 3], name="halves")
    pd.testing.assert_series_equal(found.result(20)["code"], frame["code"])

    ran.clear()
    changed = submit(session, space["f"], [0, 1, 2, 3], name="halves", fresh="changed")
    assert changed.result(20)["value"].tolist() == [0, -1, -2, -3]
    assert sorted(ran) == [0, 1]
    assert "code" not in changed.frame()
    ran.clear()
    assert submit(session, space["f"], [0, 1, 2, 3], name="halves", fresh="changed").result(20) is not None
    assert ran == []


def test_a_repair_of_what_failed_is_counted_and_not_warned_of_and_a_whole_new_run_is(session: Session) -> None:
    """A notebook that repairs its function further down, run once more from the top."""
    first = "def f(x):\n    assert x < 3\n    return x\n"
    space = defined(first)
    submit(session, space["f"], [1, 2, 3], name="repaired").result(20)
    exec("def f(x):\n    return -x\n", space)
    with pytest.warns(rnb.OlderResults, match="of an older `f`"):
        repairing = submit(session, space["f"], [1, 2, 3], name="repaired")
    assert repairing.retry_failed().values() == [1, 2, -3]
    restarted(session)
    exec(first, space)
    again = submit(session, space["f"], [1, 2, 3], name="repaired")
    assert again.values() == [1, 2, -3]
    assert "1 of 3 are of other code" in again.progress().note

    exec(first, space)
    submit(session, space["f"], [1, 2], name="run anew").result(20)
    exec("def f(x):\n    return -x\n", space)
    assert submit(session, space["f"], [1, 2], name="run anew", fresh="changed").values() == [-1, -2]
    exec(first, space)
    with pytest.warns(rnb.OlderResults, match="of an older `f`"):
        submit(session, space["f"], [1, 2], name="run anew")


def test_who_began_a_job_is_told_though_the_clock_stands_still(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that open a job in the same moment are not taken for one."""
    now = time.time()
    monkeypatch.setattr("restate_nb.handle.record.time", SimpleNamespace(time=lambda: now))
    space = defined("def f(x):\n    return x\n")
    first = submit(session, space["f"], [1, 2, 3], name="same moment")
    assert (first.attached, first.values()) == (0, [1, 2, 3])
    session.forget_handles()
    exec("def f(x):\n    return -x\n", space)
    with pytest.warns(rnb.OlderResults, match="of an older `f`"):
        again = submit(session, space["f"], [1, 2, 3], name="same moment")
    assert again.values() == [1, 2, 3]
    assert again.attached == 3


def test_only_what_is_older_runs_again_after_a_restart(session: Session) -> None:
    ran: list[int] = []
    space = defined("F = 1\ndef f(x):\n    ran.append(x)\n    return x * F\n", ran=ran)
    submit(session, space["f"], [1, 2, 3], name="content").result(20)
    space["F"] = 2
    restarted(session)
    job = submit(session, space["f"], [1, 2, 3], name="content", fresh="changed")
    assert job.result(20)["value"].tolist() == [2, 4, 6]
    assert sorted(ran) == [1, 1, 2, 2, 3, 3]
    with pytest.raises(rnb.InvalidInput, match='"changed"'):
        submit(session, space["f"], [1, 2, 3], name="content", fresh="all")


def test_a_record_from_before_identities_is_attached_to_without_a_word(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(item: int) -> int:
        return item

    job = submit(session, work, [1, 2, 3], name="earlier")
    job.result(20)
    store = session.connection.job_store
    opened = store.open

    async def open_earlier(wanted: Manifest, *, fresh: bool) -> tuple[Manifest, bool]:
        manifest, began = await opened(wanted, fresh=fresh)
        manifest.made, manifest.bound = [], None
        return manifest, began

    monkeypatch.setattr(store, "open", open_earlier)
    assert submit(session, work, [1, 2, 3], name="earlier") is job  # the handle that is there
    assert "cannot be compared" in repr(job.identity())
    restarted(session)
    attached = submit(session, work, [1, 2, 3], name="earlier")
    assert attached.values() == [1, 2, 3]
    assert "cannot be compared" in repr(attached.identity())


# ---------------------------------------------------------------- what is bound


def load(table: str, *more: Any) -> str:
    return f"rows of {table}"


def test_operations_in_another_order_or_with_other_arguments_are_another_job(session: Session) -> None:
    partial = functools.partial
    one = [partial(load, "customers"), partial(load, "orders")]
    submitted = rnb.fan_out(one, name="tables", session=session, show=False)
    assert submitted.values() == ["rows of customers", "rows of orders"]
    with pytest.raises(rnb.JobMismatch, match=r"load\(0\).*load #2\(0\)"):
        rnb.fan_out(one[::-1], name="tables", session=session, show=False)
    with pytest.raises(rnb.JobMismatch, match="other arguments"):
        rnb.fan_out([partial(load, "customers"), partial(load, "x")], name="tables", session=session, show=False)
    assert rnb.fan_out(one, name="tables", session=session, show=False) is submitted
    unnamed = [rnb.fan_out(each, session=session, show=False).values() for each in (one, one[::-1])]
    assert unnamed == [["rows of customers", "rows of orders"], ["rows of orders", "rows of customers"]]

    def made(value: int) -> Callable[[], int]:
        return lambda: value

    rnb.fan_out([made(1), made(2)], name="closures", session=session, show=False).result(20)
    with pytest.raises(rnb.JobMismatch, match="another order"):
        rnb.fan_out([made(2), made(1)], name="closures", session=session, show=False)
    with pytest.warns(rnb.OlderResults, match="has changed since"):
        rnb.fan_out([made(1), made(3)], name="closures", session=session, show=False)


def test_what_a_partial_binds_counts_like_an_item(session: Session) -> None:
    def power(exponent: int, item: int) -> int:
        return item**exponent

    assert submit(session, functools.partial(power, 2), [1, 2, 3], version=1).values() == [1, 4, 9]
    assert submit(session, functools.partial(power, 3), [1, 2, 3], version=1).values() == [1, 8, 27]
    submit(session, functools.partial(power, 2), [1, 2, 3], name="power").result(20)
    with pytest.raises(rnb.JobMismatch, match=r"other arguments bound to its function: `power\(0\)`"):
        submit(session, functools.partial(power, 3), [1, 2, 3], name="power")


def test_a_version_stands_for_code_and_what_it_names(session: Session) -> None:
    space = defined("RATE = 1\ndef f(x): return x * RATE")
    one = submit(session, space["f"], [1, 2, 3], version=1)
    exec("RATE = 2\ndef f(x): return -x * RATE", space)
    assert submit(session, space["f"], [1, 2, 3], version=1) is one
    assert submit(session, space["f"], [1, 2, 3], version=2).name != one.name
    one.result(20)


# ---------------------------------------------------------------- the rest


def test_what_could_not_be_seen_is_told(session: Session) -> None:
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            return item

    job = submit(session, work, [1, 2, 3])
    job.result(20)
    assert "not seen: work.lock: lock:" in repr(job.identity())
    assert job.progress().note == ""
    restarted(session)
    again = submit(session, work, [1, 2, 3])
    again.result(20)
    assert again.progress().note == "not seen: `work.lock`; see job.identity()"


def test_a_cached_function_of_a_notebook_runs_in_worker_processes(session: Session) -> None:
    space = defined("import functools\n@functools.lru_cache\ndef f(x): return x + 1\ndef g(x): return f(x)")
    assert submit(session, space["f"], [1, 2, 3], executor="process", concurrency=1).values() == [2, 3, 4]
    assert submit(session, space["g"], [1, 2, 3], executor="process", concurrency=1).values() == [2, 3, 4]


def test_what_a_worker_process_could_not_load_is_refused_before_anything_starts(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = type(sys)("made_at_run_time")
    exec("def helper(x): return x", vars(made))
    monkeypatch.setitem(sys.modules, "made_at_run_time", made)
    helper = made.helper
    with pytest.raises(rnb.InvalidInput, match="'made_at_run_time', which other processes cannot import"):
        submit(session, lambda item: helper(item), [1, 2, 3], executor="process")
    with Path(__file__).open() as file, pytest.raises(rnb.InvalidInput, match="an open file"):
        submit(session, lambda item: file.name, [1, 2, 3], executor="process")


def test_a_large_array_that_a_function_names_is_seen(session: Session) -> None:
    weights = np.zeros(2_500_000)

    def work(item: int) -> float:
        return float(weights.sum()) + item

    assert submit(session, work, [1, 2, 3]).values() == [1.0, 2.0, 3.0]
    weights[1_234_567] = 1
    assert submit(session, work, [1, 2, 3]).values() == [2.0, 3.0, 4.0]


SEED = 7


def test_random_cells_never_get_the_result_of_others(session: Session) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    space = defined("def f(x):\n    calls.append(x)\n    return A['v'], B, C[0]\n", calls=[], A={"v": 0}, B=0, C=[0])
    for _ in range(40):
        choice = rng.randrange(4)
        if choice == 0:
            space["A"]["v"] = rng.randrange(3)
        elif choice == 1:
            space["B"] = rng.randrange(3)
        elif choice == 2:
            space["C"] = [rng.randrange(3)]
        wanted = (space["A"]["v"], space["B"], space["C"][0])
        assert submit(session, space["f"], [1]).values() == [wanted]
    assert len(space["calls"]) <= 27, "no content was paid for twice"


def test_retried_items_are_of_the_content_at_that_time(session: Session) -> None:
    space = defined("cfg = {'k': 0}\ndef f(x):\n    return x if x > 1 else 1 / cfg['k']\n")
    job = submit(session, space["f"], [1, 2, 3], name="retried")
    assert job.result(20)["status"].tolist() == ["error", "ok", "ok"]
    space["cfg"]["k"] = 4  # and the cell is not run again
    frame = job.retry_failed().result(20)
    assert frame["value"].tolist() == [0.25, 2, 3]
    assert frame["code"].iloc[1] == frame["code"].iloc[2] != frame["code"].iloc[0]
    assert submit(session, space["f"], [1, 2, 3], name="retried", fresh="changed").result(20)["value"].tolist() == [
        0.25,
        2,
        3,
    ]
    assert "code" not in job.frame()
