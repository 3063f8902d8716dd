"""Proves that sessions may be started and stopped in one process any number of times: nothing of them is left and
nothing grows. The long form: `pytest -m soak tests/durability`."""

from __future__ import annotations

import gc
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

import restate_nb as rnb

ME = psutil.Process()


def traces() -> dict[str, object]:
    """What a session may leave behind in this process and beside it."""
    gc.collect()
    here = {Path(each.path).name for each in ME.open_files()}
    return {
        "threads": sorted(each.name for each in threading.enumerate() if each.name.startswith("rnb")),
        "children": [each.pid for each in ME.children(recursive=True)],
        "descriptors": ME.num_fds(),
        "open files": here,
        "sockets": len(ME.net_connections("all")),
        "ports": [each.laddr for each in ME.net_connections("inet") if each.status == psutil.CONN_LISTEN],
        "temporary files": sorted(Path(tempfile.gettempdir()).iterdir()),
    }


@pytest.fixture(autouse=True)
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no other test's are taken for ours."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def rounds(data_dir: Path, count: int, growth_mb: float) -> None:
    async def work(item: int) -> int:
        return item

    def once(number: int) -> list[int]:
        with rnb.start("rounds", data_dir=data_dir) as session:
            assert rnb.map(work, range(50), name=f"round {number}", show=False).values() == list(range(50))
            status = session.server.status()
            assert status.pid is not None
            return [status.pid, status.supervisor_pid]

    for number in range(3):  # what is loaded and opened once and for all
        once(number)
    before, memory = traces(), ME.memory_info().rss
    processes = [pid for number in range(count) for pid in once(100 + number)]
    after, grown = traces(), (ME.memory_info().rss - memory) / 1e6
    print(f"{count} rounds: {grown:.1f} MB more memory, {grown * 1000 / count:.0f} kB a round; {after}")
    assert after == before
    deadline = time.monotonic() + 5  # a supervisor ends a moment after its last connection
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(psutil.pid_exists, processes))
    assert not (data_dir / "supervisor.sock").exists()
    assert grown < growth_mb


def test_a_dozen_rounds_leave_nothing(data_dir: Path) -> None:
    rounds(data_dir, 12, growth_mb=20)


@pytest.mark.soak
def test_two_hundred_rounds_leave_nothing(data_dir: Path) -> None:
    rounds(data_dir, 200, growth_mb=60)
