"""Proves that connections which break at any moment, on any of the three ways between kernel and server, lose no
outcome and run nothing twice, and that a submission whose answer was lost is found again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import restate_nb as rnb
from restate_nb.server.address import Address
from restate_nb.server.lifecycle import ServerHandle, start_server
from restate_nb.service.endpoint import Endpoint
from restate_nb.session import cluster
from restate_nb.session.session import Session
from tests.durability.proxy import Proxy


class Ways:
    """A session whose every connection goes through a proxy."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proxies: dict[str, Proxy] = {}
        own_url = Endpoint.url.fget
        assert own_url is not None

        def started(*args: object, **options: object) -> ServerHandle:
            handle = start_server(*args, **options)  # type: ignore[arg-type]
            for name in ("ingress", "admin"):
                socket = getattr(handle, name).socket
                self.proxies[name] = Proxy(lambda socket=socket: socket, folder / f"{name}.sock")
                setattr(handle, name, Address("http://localhost", folder / f"{name}.sock"))
            return handle

        def url(endpoint: Endpoint) -> str:
            if "endpoint" not in self.proxies:
                port = int(own_url(endpoint).rpartition(":")[2])
                self.proxies["endpoint"] = Proxy(lambda: ("127.0.0.1", port))
            host, shown = self.proxies["endpoint"].place  # type: ignore[misc]
            return f"http://{host}:{shown}"

        monkeypatch.setattr(cluster, "start_server", started)
        monkeypatch.setattr(Endpoint, "url", property(url))
        self.session = Session("proxied", folder / ".restate")

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.behave()
        self.session.stop()
        for proxy in self.proxies.values():
            proxy.close()


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ways]:
    ways = Ways(tmp_path, monkeypatch)
    try:
        yield ways
    finally:
        ways.close()


def square(calls: Counter[int], pause: float) -> Callable[[int], object]:
    async def work(item: int) -> int:
        calls[item] += 1
        await asyncio.sleep(pause)
        return item * item

    return work


@pytest.mark.parametrize("way", ["ingress", "endpoint", "all"])
def test_connections_that_break_at_random_lose_nothing(ways: Ways, way: str) -> None:
    seed = 5
    print(f"seed {seed}")
    rng = random.Random(seed)
    chosen = ("ingress", "admin", "endpoint") if way == "all" else (way,)
    for name in chosen:
        ways.proxies[name].drop(rng, (0.02, 0.15))
    calls = Counter[int]()
    for name in ("first", "second"):  # submitted, followed and concluded under fire
        job = rnb.map(
            square(calls, 0.02), range(1000), session=ways.session, concurrency=20, name=f"{way} {name}", show=False
        )
        frame = job.result(60)
        assert frame["value"].tolist() == [item * item for item in range(1000)]
        assert frame["attempts"].eq(1).all()
    assert len(rnb.jobs(ways.session)) == 2
    assert calls == dict.fromkeys(range(1000), 2)  # once a job
    dropped = {name: proxy.told["dropped"] for name, proxy in ways.proxies.items()}
    print(dropped)
    assert all(dropped[name] >= 4 for name in chosen)


@pytest.mark.parametrize("seed", range(100, 110))
@pytest.mark.soak
def test_connections_that_break_for_long_lose_nothing(ways: Ways, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for proxy in ways.proxies.values():
        proxy.drop(rng, (0.0, 0.2))
    calls = Counter[int]()
    job = rnb.map(square(calls, 0.01), range(40_000), session=ways.session, concurrency=20, show=False)
    assert job.values() == [item * item for item in range(40_000)]
    assert calls == dict.fromkeys(range(40_000), 1)


@pytest.mark.parametrize("request_", [b"/restate/send/", b"/open", b"/change", b"/restate/attach"])
def test_a_request_whose_answer_is_lost_counts_once(ways: Ways, request_: bytes) -> None:
    """`send` submits a shard, `open` begins a job, `change` adds a round to it, `attach` asks for the outcomes."""
    ways.proxies["ingress"].swallow(request_, 3)
    calls = Counter[int]()
    fails = True

    def work(item: int) -> int:
        calls[item] += 1
        if fails and item == 7:
            raise ValueError("seven")
        return item

    job = rnb.map(work, range(50), session=ways.session, name="lost answers", show=False)
    assert job.result(30)["status"].value_counts()["error"] == 1
    fails = False
    assert job.retry_failed().result(30)["value"].tolist() == list(range(50))
    assert ways.proxies["ingress"].told["swallowed"] == 3
    assert calls == {**dict.fromkeys(range(50), 1), 7: 2}
    listed = rnb.jobs(ways.session)
    assert listed[["name", "status", "rounds", "ok"]].to_numpy().tolist() == [["lost answers", "finished", 2, 50]]


def test_a_submission_that_broke_off_is_gone_on_with_by_the_next_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the submission never comes, and the session ends: the next one attaches to what was taken."""
    calls = Counter[int]()
    ways = Ways(tmp_path, monkeypatch)
    ways.proxies["ingress"].swallow(b"/restate/send/", 10**6)
    job = rnb.map(square(calls, 0.001), range(2000), session=ways.session, name="broke off", show=False)
    with pytest.raises(TimeoutError):
        job.result(1)
    assert job.status == "submitting"
    ways.close()
    monkeypatch.undo()
    with Session("proxied", tmp_path / ".restate") as session:
        job = rnb.map(square(calls, 0.001), range(2000), session=session, name="broke off", show=False)
        assert job.values() == [item * item for item in range(2000)]
        assert job.attached == 2000
    assert calls == dict.fromkeys(range(2000), 1)
