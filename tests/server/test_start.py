"""A server starts, is shared, heals and ends; proved on the real restate-server, its processes, sockets and locks."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import restate

from restate_nb.errors import ServerError
from restate_nb.server import supervisor
from restate_nb.server.address import needs_link, short_path
from restate_nb.server.admin import Admin
from restate_nb.server.lifecycle import ServerHandle, server_status, start_server, stop_server
from tests.server.serverlab import endpoint, open_descriptors, processes_on
from tests.support import eventually, start_python

KERNEL = """
import sys, os
from pathlib import Path
from restate_nb.server.lifecycle import start_server
handle = start_server(Path(sys.argv[1]))
print(handle.pid, handle.status().supervisor_pid, handle.adopted, flush=True)
sys.stdin.readline()
handle.close()
print("closed", flush=True)
"""


def lock_is_free(data_dir: Path) -> bool:
    with (data_dir / "lock").open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def sockets_in(data_dir: Path) -> list[Path]:
    return [path for path in data_dir.rglob("*") if path.is_socket()]


def nothing_runs(data_dir: Path) -> bool:
    return not processes_on(data_dir) and lock_is_free(data_dir) and not sockets_in(data_dir)


async def marked(handle: ServerHandle, url: str) -> list[str]:
    """Make the server remember something: the uris of its deployments."""
    async with Admin(handle.admin) as admin:
        if url:
            await admin.point(["Echo"], url)
        return [deployment["uri"].rstrip("/") for deployment in await admin.deployments()]


def echo() -> object:
    service = restate.Service("Echo")

    @service.handler()
    async def echo(ctx: restate.Context, text: str) -> str:
        return text

    return service


async def test_a_started_server_answers_on_both_interfaces(data_dir: Path) -> None:
    """Once start_server returns, both interfaces answer, and the version is the binary's."""
    with start_server(data_dir) as handle:
        async with Admin(handle.admin, patience=5) as admin:
            assert await admin.version() == handle.version
            assert await admin.query("SELECT id FROM sys_invocation") == []
        assert not handle.adopted and handle.alive and psutil.pid_exists(handle.pid or 0)
        assert str(handle.pid) in repr(handle) and str(data_dir) in repr(handle)
    assert "closed" in repr(handle) and handle.pid is None and not handle.alive


def test_only_the_user_may_read_the_data(data_dir: Path) -> None:
    """The directory, the key, the log and the sockets are private, and git ignores them."""
    with start_server(data_dir):
        assert data_dir.stat().st_mode & 0o777 == 0o700
        for path in (data_dir / "identity.pem", data_dir / "restate-server.log", data_dir / "supervisor.sock"):
            assert path.stat().st_mode & 0o077 == 0, path
        assert "*" in (data_dir / ".gitignore").read_text().splitlines()


def test_a_server_on_unix_sockets_listens_on_no_port(data_dir: Path) -> None:
    """In the default mode neither the server nor its supervisor has a TCP port."""
    with start_server(data_dir) as handle:
        for process in processes_on(data_dir):
            assert [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
        assert handle.ingress.socket is not None and handle.ingress.socket.is_socket()


def test_the_server_sees_no_proxy_and_no_settings_of_others(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables and stray RESTATE_ settings of the kernel never reach the server; its own do."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("RESTATE_NODE_NAME", "elsewhere")
    monkeypatch.setenv("RESTATE_ADMIN_URL", "http://127.0.0.1:1")
    with start_server(data_dir, env={"RESTATE_WORKER__INVOKER__INACTIVITY_TIMEOUT": "0s"}) as handle:
        environment = psutil.Process(handle.pid).environ()
    assert not {name for name in environment if name.lower().endswith("_proxy")}
    assert not environment.keys() & {"RESTATE_NODE_NAME", "RESTATE_ADMIN_URL"}
    assert environment["RESTATE_DISABLE_TELEMETRY"] == "true"
    assert environment["RESTATE_WORKER__INVOKER__INACTIVITY_TIMEOUT"] == "0s"


def test_a_second_start_adopts_the_first_server(data_dir: Path) -> None:
    """A second start, here or in another process, gets the same server; it ends with its last user."""
    first = start_server(data_dir)
    second = start_server(data_dir)
    other = start_python(KERNEL, data_dir)
    assert other.stdout is not None and other.stdin is not None
    with other:
        pid, supervisor, adopted = other.stdout.readline().split()
        assert (int(pid), int(supervisor), adopted) == (first.pid, first.status().supervisor_pid, "True")
        assert second.adopted and second.identity_key == first.identity_key and first.status().holds == 3
        first.close()
        second.close()
        status = server_status(data_dir)
        assert status is not None and status.holds == 1 and status.pid == int(pid)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "closed\n"
    eventually(lambda: nothing_runs(data_dir))
    assert server_status(data_dir) is None


def test_closing_twice_or_in_many_threads_is_harmless(data_dir: Path) -> None:
    """close() is idempotent, and safe to call from several threads at once."""
    handle = start_server(data_dir)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: handle.close(), range(8)))
    eventually(lambda: nothing_runs(data_dir))
    with pytest.raises(ServerError, match="closed"):
        handle.status()


def test_the_end_leaves_nothing_behind(data_dir: Path) -> None:
    """Right after close() the server is gone and the lock is free; no child, descriptor, thread or socket is left."""
    start_server(data_dir).close()
    before = open_descriptors(), threading.active_count(), psutil.Process().children()
    for _ in range(3):
        handle = start_server(data_dir)
        server = handle.pid
        assert server is not None
        handle.close()
        assert not psutil.pid_exists(server) and lock_is_free(data_dir) and not sockets_in(data_dir)
    assert (open_descriptors(), threading.active_count(), psutil.Process().children()) == before
    eventually(lambda: nothing_runs(data_dir))


def test_a_lost_handle_gives_up_its_hold(data_dir: Path) -> None:
    """A handle that is garbage collected lets the server end, without a warning."""
    handle = start_server(data_dir)
    del handle
    gc.collect()
    eventually(lambda: nothing_runs(data_dir))


async def test_a_killed_server_heals_on_the_same_addresses(data_dir: Path) -> None:
    """kill -9 of the server: the same addresses answer again within a second, and nothing is forgotten."""
    with start_server(data_dir) as handle:
        async with endpoint(echo()) as url:
            assert await marked(handle, url) == [url]
        for round_ in range(1, 4):
            killed = handle.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            eventually(lambda killed=killed: handle.pid not in (None, killed), 1)
            assert await marked(handle, "") == [url]
            assert handle.status().restarts == round_ and "signal 9" in handle.status().last_end


def test_a_server_that_was_killed_often_is_adopted_all_the_same(data_dir: Path) -> None:
    """A start that finds a server which was killed again and again, and heals, waits for it instead of giving it up."""
    with start_server(data_dir) as handle:
        for _ in range(5):
            killed = handle.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            eventually(lambda killed=killed: handle.pid not in (None, killed))
        with start_server(data_dir) as second:
            assert second.adopted and second.pid == handle.pid


def test_a_killed_kernel_ends_the_server(data_dir: Path) -> None:
    """kill -9 of the only process that uses the server ends server and supervisor, and frees sockets and lock."""
    kernel = start_python(KERNEL, data_dir)
    assert kernel.stdout is not None
    with kernel:
        server, supervisor, _ = kernel.stdout.readline().split()
        kernel.kill()
    eventually(lambda: nothing_runs(data_dir))
    eventually(lambda: not psutil.pid_exists(int(server)) and not psutil.pid_exists(int(supervisor)))


def test_a_killed_kernel_leaves_the_server_to_the_others(data_dir: Path) -> None:
    """The process that started the server may be killed, with its whole process group; those who adopted it keep it."""
    kernel = start_python(KERNEL, data_dir, start_new_session=True)
    assert kernel.stdout is not None
    with kernel:
        server = int(kernel.stdout.readline().split()[0])
        with start_server(data_dir) as handle:
            os.killpg(kernel.pid, signal.SIGINT)
            os.killpg(kernel.pid, signal.SIGKILL)
            kernel.wait()
            eventually(lambda: handle.status().holds == 1)
            assert handle.pid == server and psutil.pid_exists(server) and handle.status().restarts == 0
    eventually(lambda: nothing_runs(data_dir))


def test_children_of_the_kernel_do_not_keep_the_server(data_dir: Path) -> None:
    """Neither a forked child nor one that was exec'd keeps the server alive after the kernel was killed."""
    kernel = start_python(
        """
import os, subprocess, sys
from pathlib import Path
from restate_nb.server.lifecycle import start_server
handle = start_server(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], close_fds=False)
if (fork := os.fork()) == 0:
    import time
    handle.close()
    time.sleep(60)
    os._exit(0)
assert handle.alive
print(child.pid, fork, flush=True)
sys.stdin.readline()
""",
        data_dir,
    )
    assert kernel.stdout is not None
    with kernel:
        children = [int(pid) for pid in kernel.stdout.readline().split()]
        kernel.kill()
    try:
        assert len(children) == 2 and all(map(psutil.pid_exists, children))
        eventually(lambda: nothing_runs(data_dir))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


async def test_a_killed_supervisor_takes_the_server_with_it(data_dir: Path) -> None:
    """kill -9 of the supervisor ends the server; the handle knows, and the next start finds the data again."""
    handle = start_server(data_dir)
    async with endpoint(echo()) as url:
        await marked(handle, url)
    server = handle.pid
    assert server is not None
    os.kill(handle.status().supervisor_pid, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(server))
    assert not handle.alive
    with start_server(data_dir) as again:
        assert not again.adopted and again.ingress == handle.ingress
        assert await marked(again, "") == [url]
    handle.close()


def test_a_server_without_supervisor_is_replaced(data_dir: Path, binary: Path) -> None:
    """A server that outlived its supervisor (no PDEATHSIG, as on macOS) is ended by the next start."""
    from restate_nb.server import settings
    from restate_nb.server.datadir import prepare
    from restate_nb.server.identity import identity_key

    path = prepare(data_dir)
    identity_key(path)
    with (path / "restate-server.log").open("wb") as log:
        stale = subprocess.Popen(
            settings.command(binary, path, "unix"), cwd=path, env=settings.environment(path, None, {}), stdout=log
        )
    with stale:
        eventually((path / "restate-nb" / "admin.sock").exists)
        (path / "server.json").write_text(f'{{"pid": {stale.pid}, "supervisor": 1, "host": "{socket.gethostname()}"}}')
        with start_server(data_dir) as handle:
            assert stale.wait(5) == -signal.SIGKILL
            assert handle.pid != stale.pid


def test_a_recorded_pid_that_is_another_process_now_is_spared(data_dir: Path) -> None:
    """The record of a dead server may name a number that belongs to someone else today."""
    start_server(data_dir).close()
    with subprocess.Popen(["sleep", "60"]) as innocent:
        (data_dir / "server.json").write_text(f'{{"pid": {innocent.pid}, "supervisor": 1, "host": "x"}}')
        start_server(data_dir).close()
        assert innocent.poll() is None
        innocent.kill()


def test_processes_that_start_at_once_share_one_server(data_dir: Path) -> None:
    """Four processes that start on an empty directory at the same moment get one and the same server."""
    kernels = [start_python(KERNEL, data_dir) for _ in range(4)]
    answers = [kernel.stdout.readline().split() for kernel in kernels if kernel.stdout is not None]
    assert len({(pid, supervisor) for pid, supervisor, _ in answers}) == 1
    assert sorted(adopted for *_, adopted in answers) == ["False", "True", "True", "True"]
    for kernel in kernels:
        kernel.communicate("\n")
    eventually(lambda: nothing_runs(data_dir))


def test_starting_while_it_ends_always_gives_a_server(data_dir: Path) -> None:
    """Threads that start and close in any order (seeded) always get a live server, and leave none."""
    rng = random.Random(7)
    pauses = [[rng.uniform(0, 0.06) for _ in range(6)] for _ in range(3)]

    def kernel(waits: list[float]) -> None:
        for wait in waits:
            with start_server(data_dir) as handle:
                assert handle.pid is not None and psutil.pid_exists(handle.pid)
                threading.Event().wait(wait)
            threading.Event().wait(wait)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(kernel, pauses))
    eventually(lambda: nothing_runs(data_dir))


def is_server(process: psutil.Process) -> bool:
    try:
        return process.name() == "restate-server"
    except psutil.NoSuchProcess:  # it ended since it was found
        return False


def test_kernels_that_come_and_are_killed_never_see_two_servers(data_dir: Path) -> None:
    """Processes that start, close and kill -9 themselves at seeded moments: every start works, one server at most."""
    rng = random.Random(3)
    code = """
import os, random, sys, time
from pathlib import Path
from restate_nb.server.lifecycle import start_server
rng = random.Random(int(sys.argv[2]))
for _ in range(6):
    with start_server(Path(sys.argv[1])) as handle:
        assert handle.alive
        time.sleep(rng.choice([0.0, 0.01, 0.1]))
        if rng.random() < 0.2:
            os.kill(os.getpid(), 9)
"""
    kernels = [start_python(code, data_dir, rng.randrange(10**6)) for _ in range(8)]
    while any(kernel.poll() is None for kernel in kernels):
        servers = [each for each in processes_on(data_dir) if is_server(each)]
        assert len(servers) <= 1
    for kernel in kernels:
        kernel.communicate()
    assert {kernel.returncode for kernel in kernels} == {0, -signal.SIGKILL}
    eventually(lambda: nothing_runs(data_dir))


def test_a_supervisor_that_is_asked_to_end_ends_cleanly(data_dir: Path) -> None:
    """SIGTERM to the supervisor, as at the shutdown of a machine, ends the server in order and leaves nothing."""
    handle = start_server(data_dir)
    os.kill(handle.status().supervisor_pid, signal.SIGTERM)
    eventually(lambda: nothing_runs(data_dir))
    assert "received signal SIGTERM" in handle.log_path.read_text()
    handle.close()


def test_a_long_log_is_put_aside(data_dir: Path) -> None:
    """A log of many megabytes is moved to .1 at the next start, and takes the place of the one before."""
    start_server(data_dir).close()
    log = data_dir / "restate-server.log"
    (data_dir / "restate-server.log.1").write_text("older")
    log.write_bytes(b"x" * 6_000_000)
    with start_server(data_dir) as handle:
        assert handle.log_path == log and log.stat().st_size < 100_000
    assert (data_dir / "restate-server.log.1").stat().st_size == 6_000_000


HURRIED = """
import importlib.util
spec = importlib.util.spec_from_file_location("supervisor", {path!r})
supervisor = importlib.util.module_from_spec(spec)
spec.loader.exec_module(supervisor)
supervisor.FILES_CHECK, supervisor.LOG_LIMIT = 0.1, 200_000
supervisor.main()
"""
"""The supervisor as it is, but that it looks after its files ten times a second, and finds 200 kB of log too much."""


async def test_the_log_of_a_server_that_runs_for_long_is_bounded_and_its_link_renewed(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that grows is moved to .1 under the server's feet; a cleaner of temporary files takes the link in vain."""
    script = tmp_path / "supervisor.py"
    script.write_text(HURRIED.format(path=supervisor.__file__))
    monkeypatch.setattr(supervisor, "__file__", str(script))
    data_dir = tmp_path / ("y" * (200 - len(str(tmp_path)) - 1))
    with start_server(data_dir) as handle:
        link, log = short_path(data_dir), handle.log_path
        eventually(lambda: link.is_symlink() and log.exists())
        link.unlink()
        eventually(link.is_symlink)
        with log.open("ab") as file:
            file.write(b"x" * 300_000)
        eventually(lambda: log.with_name(f"{log.name}.1").exists() and log.stat().st_size < 200_000)
        assert log.with_name(f"{log.name}.1").stat().st_size >= 300_000
        assert "restate_nb supervisor: begins" in log.with_name(f"{log.name}.1").read_text()
        killed = handle.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: handle.pid not in (None, killed))
        assert "restate-server is gone" in log.read_text(), "both write on where the log was cut"
        assert await marked(handle, "") == []


async def test_a_server_whose_program_is_gone_comes_back_with_it(binary: Path, data_dir: Path, tmp_path: Path) -> None:
    """What is written to the log and to the status says why; once the program is there again the server heals."""
    program = tmp_path / "restate-server"
    program.symlink_to(binary)
    with start_server(data_dir, binary=program) as handle:
        program.unlink()
        os.kill(handle.pid or 0, signal.SIGKILL)
        eventually(lambda: "could not be run" in handle.status().last_end)
        assert "No such file" in handle.status().last_end
        program.symlink_to(binary)
        eventually(lambda: handle.pid is not None)
        eventually(lambda: "it could not be run" in handle.log_path.read_text())
        async with Admin(handle.admin, patience=10) as admin:
            assert await admin.query("SELECT id FROM sys_invocation") == []


def test_a_server_that_does_not_end_is_killed(data_dir: Path) -> None:
    """A server that is stopped (SIGSTOP) takes no SIGTERM: after some seconds it is killed, and nothing is left."""
    handle = start_server(data_dir)
    os.kill(handle.pid or 0, signal.SIGSTOP)
    handle.close()
    eventually(lambda: nothing_runs(data_dir))


async def test_a_path_too_long_for_a_socket_works(binary: Path, tmp_path: Path) -> None:
    """A data directory of 200 characters works, through a short private link that goes with the server."""
    data_dir = tmp_path / ("x" * (200 - len(str(tmp_path)) - 1))
    assert len(str(data_dir)) == 200 and needs_link(data_dir)
    with start_server(data_dir) as handle:
        async with endpoint(echo(), keys=[handle.identity_key]) as url:
            assert await marked(handle, url) == [url]
        link = short_path(data_dir)
        assert handle.admin.socket is not None and handle.admin.socket.is_relative_to(link)
        assert link.parent.stat().st_mode & 0o777 == 0o700
        with start_server(data_dir) as second:
            assert second.adopted
    assert not link.is_symlink()
    assert stop_server(data_dir) is False


async def test_tcp_listens_on_loopback_and_keeps_its_ports(data_dir: Path) -> None:
    """With listen="tcp" all ports are on 127.0.0.1, and the next start uses the same ones."""
    with start_server(data_dir, listen="tcp") as handle:
        listening = psutil.Process(handle.pid).net_connections("inet")
        assert {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
        async with endpoint(echo()) as url:
            assert await marked(handle, url) == [url]
        addresses = handle.ingress, handle.admin
    with start_server(data_dir, listen="tcp") as handle:
        assert (handle.ingress, handle.admin) == addresses
        assert await marked(handle, "") == [url]
    port = int(addresses[0].url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), start_server(data_dir, listen="tcp") as handle:
        assert handle.ingress != addresses[0]
    with start_server(data_dir) as handle:  # back to sockets, with the same data
        assert handle.listen == "unix" and await marked(handle, "") == [url]


def test_adopting_a_server_that_listens_otherwise_is_said(data_dir: Path) -> None:
    """A start with another `listen` adopts the server, and the handle says how it listens and what to do."""
    with start_server(data_dir), start_server(data_dir, listen="tcp") as second:
        assert second.adopted and second.listen == "unix" and second.ingress.socket is not None
        assert "stop it first" in second.note


def test_a_kept_server_runs_until_it_is_stopped(data_dir: Path) -> None:
    """With keep=True the server outlives its users; stop_server ends it, whoever uses it."""
    handle = start_server(data_dir, keep=True)
    pid = handle.pid
    handle.close()
    status = server_status(data_dir)
    assert status is not None and status.pid == pid and status.keep and status.holds == 0
    with start_server(data_dir) as user:
        assert user.adopted
        assert stop_server(data_dir) is True
        assert not user.alive
        with pytest.raises(ServerError, match="ended from outside"):
            user.status()
    assert stop_server(data_dir) is False
