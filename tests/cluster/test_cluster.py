"""Proves that a job on a three-node cluster with two workers loses nothing, whichever node and worker is killed, the
node to which the notebook talks included.

The long form, 20 kills: `pytest -m soak tests/cluster`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb.session.session import Session
from tests.cluster.nodes import Cluster
from tests.workers.crew import Worker, executions, free_port

CONCURRENCY = 16


def run(folder: Path, total: int, seconds: float, kills: int, rng: random.Random) -> None:
    """One job. Nodes and workers are killed in turn; node 0, to which the notebook talks, first of all and again."""
    path, port = folder / "runs", free_port()
    with Cluster(folder) as cluster:
        options = ("--admin", cluster.admin(0), "--no-identity")
        workers = [Worker(folder / f"worker-{each}.log", "cluster", port, *options) for each in range(2)]
        session: Session | None = None
        try:
            session = rnb.connect(cluster.ingress(0), admin_url=cluster.admin(0), name="cluster", token="")
            items = [(str(path), number, seconds) for number in range(total)]
            job = rnb.starmap(
                "tests.workers.work:double", items, name="killed", concurrency=CONCURRENCY, show=False, session=session
            )
            for number in range(kills):
                while len(executions(path)) < total * (number + 1) / (kills + 2):
                    assert not job.done(), job.result()
                    time.sleep(0.02)
                if number % 2:
                    victim = rng.randrange(2)
                    workers[victim].kill()
                    log = folder / f"worker-{number + 2}.log"
                    workers[victim] = Worker(log, "cluster", port, "--no-register", "--no-identity")
                else:
                    node = rng.randrange(3) if number else 0
                    cluster.kill(node)
                    time.sleep(rng.random())
                    cluster.start(node)
                print(f"kill {number + 1} at {len(executions(path))} runs, {job.counts}")
            frame = job.result(600)
        finally:
            if session is not None:
                session.stop()
            for worker in workers:
                worker.kill()
    assert frame["status"].eq("ok").all(), job.errors()
    assert frame["value"].tolist() == [2 * number for number in range(total)]
    runs = Counter(executions(path))
    print(f"{runs.total() - total} items ran once more")
    assert set(runs) == set(range(total))
    assert runs.total() - total <= 2 * CONCURRENCY * kills  # what was in flight, or just over and not recorded


def test_killing_a_node_and_a_worker_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    run(tmp_path, 400, 0.05, 3, random.Random(seed))


@pytest.mark.soak
def test_twenty_kills_during_five_thousand_items(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    run(tmp_path, 5_000, 0.1, 20, random.Random(seed))
