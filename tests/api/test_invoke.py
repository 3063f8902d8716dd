"""Proves `rnb.invoke` on services in another process: right values, attached to, limited, retried, cancelled; nothing
is executed twice, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import restate_nb as rnb
from restate_nb.errors import InvocationFailed
from restate_nb.patterns import ObjectClient, ServiceClient, WorkflowClient
from restate_nb.session.session import Session
from tests.backends import shop
from tests.support import eventually, start_python

DOUBLE = ServiceClient[int, int]("Shop", "double")
NAP = ServiceClient[float, float]("Shop", "nap")


class Deployed:
    """A session, and the shop in a process of its own, registered there."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.shop", str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert session.connection.admin is not None
        session.io.run(session.connection.admin.point(shop.NAMES, url))

    def invoke(self, client: Any, inputs: Any, **options: Any) -> rnb.Job[Any]:
        return rnb.invoke(client, inputs, session=self.session, show=False, **options)

    def live(self) -> list[str]:
        """The status of each invocation of the shop that has not ended."""
        names = ", ".join(f"'{name}'" for name in shop.NAMES)
        rows = self.session.io.run(
            self.session.connection.admin.query(
                f"select status from sys_invocation where status <> 'completed' and target_service_name in ({names})"
            )
        )
        return [row["status"] for row in rows]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def deployed(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    made = Deployed(session, tmp_path_factory.mktemp("shop"))
    yield made
    made.close()


def test_each_input_is_one_invocation_with_its_value_or_its_error(deployed: Deployed) -> None:
    job = deployed.invoke(DOUBLE, range(100, 130))
    frame = job.result(60)
    assert frame["status"].tolist() == ["error" if number == 113 else "ok" for number in range(100, 130)]
    assert frame["value"].dropna().tolist() == [2 * number for number in range(100, 130) if number != 113]
    bad = frame.iloc[13]
    assert (bad["error_type"], bad["invocation_status"]) == ("InvocationFailed", "failed")
    assert "failed with code 422: no 113" in bad["error"]
    assert frame["invocation_id"].str.startswith("inv_").all()
    assert frame["invocation_id"].is_unique
    assert (frame["invocation_retries"] == 0).all()
    took = (frame["invocation_ended_at"] - frame["invocation_started_at"]).dt.total_seconds()
    assert (took == frame["run_s"].round(6)).all(), "run_s is Restate's own time"
    with pytest.raises(rnb.JobError, match="no 113"):
        job.values()
    assert job.errors()["count"].tolist() == [1]


def test_the_same_cell_attaches_with_the_same_frame_and_runs_nothing(deployed: Deployed) -> None:
    job = deployed.invoke(DOUBLE, range(200, 250))
    first = job.result(60)
    count = len(shop.runs(deployed.folder))
    deployed.session.forget_job(job)  # as in another process: nothing of the job is known here
    again = deployed.invoke(DOUBLE, range(200, 250))
    pd.testing.assert_frame_equal(again.result(60), first)
    assert again.attached == 50
    assert len(shop.runs(deployed.folder)) == count
    assert deployed.invoke(DOUBLE, range(200, 251)).name != job.name


def test_a_job_over_a_deployed_handler_has_no_executor_to_set(deployed: Deployed) -> None:
    job = deployed.invoke(DOUBLE, [260], name="no executor")
    with pytest.raises(rnb.InvalidInput, match="runs where it is deployed"):
        job.executor = "process"
    assert job.values() == [520]


def test_a_handler_of_the_sdk_brings_its_types(deployed: Deployed) -> None:
    orders = pd.DataFrame({"sku": ["a", "bb"], "amount": [2, 3]}, index=["x", "y"])
    job = deployed.invoke(shop.price, orders)
    assert job.values() == [shop.Price(2.0, "EUR"), shop.Price(6.0, "EUR")]
    assert job.frame(expand=True)[["amount", "currency"]].to_numpy().tolist() == [[2.0, "EUR"], [6.0, "EUR"]]
    assert job.frame().index.tolist() == ["x", "y"]
    plain = deployed.invoke(ServiceClient[Any, Any]("Shop", "price"), orders, name="plain")
    assert plain.values() == [{"amount": 2, "currency": "EUR"}, {"amount": 6, "currency": "EUR"}]
    typed = ServiceClient("Shop", "price", input_type=dict, output_type=shop.Price)
    assert deployed.invoke(typed, [{"sku": "a", "amount": 1}], name="typed").values() == [shop.Price(1.0, "EUR")]


def test_content_that_is_no_json_goes_through_the_serdes_of_its_handler(deployed: Deployed) -> None:
    assert deployed.invoke(shop.mirror, [b"\x89PNG", b"\x00"]).values() == [b"GNP\x89", b"\x00"]
    frame = deployed.invoke(ServiceClient[Any, Any]("Shop", "mirror"), [{"a": 1}]).result(20)
    assert frame["error_type"].tolist() == ["BadAnswer"]
    assert "Shop/mirror gave what is no JSON: image/png" in frame["error"].iloc[0]


def test_a_handler_without_input_takes_none(deployed: Deployed) -> None:
    assert deployed.invoke(shop.nothing, [None, None]).values() == [None, None]
    assert shop.runs(deployed.folder).count("nothing") == 2
    with pytest.raises(rnb.InvalidInput, match=r"Input 1, 5, cannot be sent: Shop/nothing takes no input"):
        deployed.invoke(shop.nothing, [None, 5])


def test_objects_are_told_by_key_however_it_is_given(deployed: Deployed) -> None:
    take = ObjectClient[int, int]("Stock", "take")
    job = deployed.invoke(take, [1, 2, 3, 4], key=lambda number: f"odd-{number % 2}")
    odd, even = job.values()[::2], job.values()[1::2]
    assert (max(odd), max(even)) == (1 + 3, 2 + 4), "each object saw its own two, in either order"
    orders = pd.DataFrame({"sku": ["a", "b"], "shelf": [7, 8]})
    assert deployed.invoke(shop.whose, orders, key="shelf").values() == ["7: a", "8: b"]
    assert deployed.invoke(shop.whose, orders, key=["p", "q"], name="list").values() == ["p: a", "q: b"]
    with pytest.raises(rnb.JobMismatch):
        deployed.invoke(shop.whose, orders, key=["p", "z"], name="list")


@pytest.mark.parametrize(
    ("client", "inputs", "key", "says"),
    [
        (ObjectClient[int, int]("Stock", "take"), [1], None, "needs a key"),
        (ObjectClient[int, int]("Stock", "take"), [1], [""], "text, not empty, or a whole number"),
        (ObjectClient[int, int]("Stock", "take"), [1], [1.5], "text, not empty, or a whole number"),
        (ObjectClient[int, int]("Stock", "take"), [1], ["a", "b"], "2 keys for 1 items"),
        (ObjectClient[int, int]("Stock", "take"), [{"a": 1}], "b", "has none of that name"),
        (DOUBLE, [1], ["a"], "has no keys"),
        (len, [1], None, "no Restate handler"),
        (DOUBLE, [object()], None, "Input 0.*cannot be sent: a object has no JSON form"),
        (DOUBLE, "text", None, "not a collection"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(
    deployed: Deployed, client: Any, inputs: Any, key: Any, says: str
) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        deployed.invoke(client, inputs, key=key)


def test_a_workflow_runs_once_a_key(deployed: Deployed) -> None:
    job = deployed.invoke(WorkflowClient[str, str]("Signup", "run"), ["ada", "mallory"], key=["u1", "u2"])
    frame = job.result(30)
    assert frame["value"].tolist()[0] == "u1 is ada"
    assert frame["status"].tolist() == ["ok", "error"]
    assert frame["invocation_status"].tolist() == ["succeeded", "failed"]
    retried = deployed.invoke(shop.run, ["ada", "mallory"], key=["u1", "u2"], retry=rnb.Retry(), name="again")
    assert retried.result(30)["attempts"].tolist() == [1, 1], "its key has its outcome for good"
    assert Counter(line for line in shop.runs(deployed.folder) if line.startswith("signup")) == {
        "signup ada": 1,
        "signup mallory": 1,
    }
    assert deployed.invoke(shop.peek, ["ada"], key=["u1"]).values() == ["ADA"]


def test_a_failed_invocation_is_followed_by_another_when_retries_are_asked_for(deployed: Deployed) -> None:
    retry = rnb.Retry(max_attempts=3, initial_interval=0.01, retry_on=InvocationFailed)
    job = deployed.invoke(shop.at_last, [1, 2], retry=retry)
    assert job.values() == [1, 2]
    assert job.attempts()["status"].tolist() == ["error", "error", "ok"] * 2
    count = len(shop.runs(deployed.folder))
    deployed.session.forget_job(job)
    again = deployed.invoke(shop.at_last, [1, 2], retry=retry)
    assert again.values() == [1, 2]
    assert len(again.attempts()) == 6
    assert len(shop.runs(deployed.folder)) == count, "the failed invocations were found, too"


def test_retry_failed_makes_further_invocations(deployed: Deployed) -> None:
    job = deployed.invoke(shop.at_last, [10])
    for expected in ("error", "error", "ok"):
        assert job.result(20)["status"].tolist() == [expected]
        job.retry_failed()
    assert shop.runs(deployed.folder).count("at_last 10") == 3


def test_as_many_are_open_at_once_as_are_allowed_and_no_faster_than_asked(deployed: Deployed) -> None:
    job = deployed.invoke(NAP, [0.15 + n / 1e6 for n in range(9)], concurrency=3)
    peak = 0
    while not job.done():
        peak = max(peak, job.counts["running"])
        time.sleep(0.005)
    assert peak == 3
    began = time.monotonic()
    deployed.invoke(DOUBLE, range(300, 310), max_per_second=20).result(20)
    assert time.monotonic() - began >= 0.4


def test_fail_fast_leaves_the_rest_unsent(deployed: Deployed) -> None:
    job = deployed.invoke(DOUBLE, [1013, *range(1100, 1112), *range(1120, 1200)], concurrency=1, fail_fast=True)
    with pytest.raises(rnb.JobError, match="fail_fast=True"):
        job.result(20)
    assert job.counts["cancelled"] >= 80
    assert sum(line.isdigit() and 1100 <= int(line) < 1200 for line in shop.runs(deployed.folder)) <= 1


def test_an_invocation_that_takes_too_long_is_cancelled_in_restate(deployed: Deployed) -> None:
    job = deployed.invoke(NAP, [0.01, 41.0], timeout=0.5)
    frame = job.result(20)
    assert frame["status"].tolist() == ["ok", "timeout"]
    assert frame["error"].iloc[1] == "The invocation ran longer than timeout=0.5 seconds, and was cancelled."
    eventually(lambda: not deployed.live())
    deployed.session.forget_job(job)
    again = deployed.invoke(NAP, [0.01, 41.0], timeout=0.5).result(20)
    assert again["status"].tolist() == ["ok", "timeout"]


def test_a_cancelled_job_leaves_no_invocation_behind(deployed: Deployed) -> None:
    job = deployed.invoke(NAP, [0.01, *(50.0 + n for n in range(60))], concurrency=20, name="cancelled")
    eventually(lambda: job.counts["ok"] == 1 and job.counts["running"] == 20)
    job.cancel()
    assert job.counts == {"pending": 0, "running": 0, "ok": 1, "error": 0, "timeout": 0, "cancelled": 60}
    assert job.status == "cancelled"
    eventually(lambda: not deployed.live())
    before = len(shop.runs(deployed.folder))
    deployed.session.forget_job(job)
    again = deployed.invoke(NAP, [0.01, *(50.0 + n for n in range(60))], name="cancelled")
    assert again.result(20)["status"].tolist() == ["ok", *["cancelled"] * 60]
    assert len(shop.runs(deployed.folder)) == before, "a cancelled job stays so"


def test_a_job_that_is_cancelled_right_after_its_begin_ends(deployed: Deployed) -> None:
    job = deployed.invoke(NAP, [60.0 + n for n in range(200)], concurrency=200)
    job.cancel()
    assert job.counts["cancelled"] == 200
    eventually(lambda: not deployed.live())


def test_a_job_of_calls_is_paused_and_resumed(deployed: Deployed) -> None:
    job = deployed.invoke(NAP, [0.05 + n / 1e6 for n in range(40)], concurrency=2)
    job.pause()
    eventually(lambda: not job.counts["running"])
    assert job.counts["pending"] > 0
    job.resume()
    assert job.result(20)["status"].eq("ok").all()


def test_an_unknown_service_ends_the_job_and_says_which_there_are(deployed: Deployed) -> None:
    job = deployed.invoke(ServiceClient[int, int]("Shoop", "double"), [1, 2])
    with pytest.raises(rnb.JobError, match=r"(?s)service 'Shoop' not found.*these services: Shop, Signup, Stock"):
        job.result(20)


def test_the_charts_draw_invocations(deployed: Deployed) -> None:
    job = deployed.invoke(DOUBLE, range(400, 420))
    job.result(20)
    for axes in (job.timeline(), job.durations(), job.throughput(), job.failures(), *job.overview().ravel()):
        assert axes.get_xlabel()


def test_durable_jobs_and_plain_ones_stand_beside_them(deployed: Deployed) -> None:
    assert rnb.map(str, [1, 2], session=deployed.session, show=False).values() == ["1", "2"]
    deployed.invoke(DOUBLE, range(500, 503), name="listed").result(20)
    jobs = rnb.jobs(deployed.session).set_index("name")
    assert jobs.loc["listed", "function"] == "Shop/double"
    assert jobs.loc["listed", ["status", "total", "ok"]].tolist() == ["finished", 3, 3]
    assert rnb.job("listed", deployed.session).done()
    deployed.session.forget_handles()
    with pytest.raises(rnb.InvalidInput, match=r"a job of rnb\.invoke: run its cell again"):
        rnb.job("listed", deployed.session)


async def test_the_server_is_killed_in_the_middle_and_each_step_runs_once(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Session("killed", data_dir) as session:
        deployed = Deployed(session, tmp_path_factory.mktemp("shop"))
        try:
            job = deployed.invoke(DOUBLE, range(2000, 3000), concurrency=30)
            for share in (100, 300, 600):
                eventually(lambda share=share: len(shop.runs(deployed.folder)) >= share)  # type: ignore[misc]
                assert session.server.pid is not None
                os.kill(session.server.pid, signal.SIGKILL)
                await asyncio.sleep(0.3)
            frame = job.result(120)
            good = [number for number in range(2000, 3000) if number % 100 != 13]
            assert frame["value"].dropna().tolist() == [2 * number for number in good]
            assert frame["status"].value_counts()["error"] == 10
            counts = Counter(shop.runs(deployed.folder))
            assert set(counts) == set(map(str, range(2000, 3000)))
            # A step that ran when the server died is run again: at most those that were in flight at the three kills.
            assert counts.total() - 1000 <= 3 * 30
        finally:
            deployed.close()


def test_the_kernel_is_killed_in_the_middle_and_the_cell_goes_on(tmp_path: Path, data_dir: Path) -> None:
    with Session("kernel", data_dir) as session:  # keeps the server
        deployed = Deployed(session, tmp_path)
        try:
            code = (
                "import sys, pathlib; import restate_nb as rnb; from restate_nb.patterns import ServiceClient\n"
                "from restate_nb.session.session import Session\n"
                "session = Session('kernel', pathlib.Path(sys.argv[1]))\n"
                "rnb.invoke(ServiceClient('Shop', 'double'), range(4000, 5000), concurrency=10, session=session,\n"
                "           name='mine', show=False).result()"
            )
            kernel = start_python(code, data_dir)
            eventually(lambda: len(shop.runs(deployed.folder)) >= 200)
            kernel.kill()
            kernel.communicate()
            time.sleep(0.5)
            done = len(shop.runs(deployed.folder))
            assert done < 1000
            job = deployed.invoke(ServiceClient[Any, Any]("Shop", "double"), range(4000, 5000), name="mine")
            assert len(job.result(60)) == 1000
            assert job.attached >= 200
            assert Counter(shop.runs(deployed.folder)) == dict.fromkeys(map(str, range(4000, 5000)), 1)
        finally:
            deployed.close()
