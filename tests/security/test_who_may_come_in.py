"""Proves who can reach the server, its files and the kernel: this user and his server, and nobody else."""

from __future__ import annotations

import asyncio
import base64
import encodings.idna  # noqa: F401 - nobody cannot import it: the library may not be his to read
import errno
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import restate_nb as rnb
from restate_nb.errors import InvocationFailed
from restate_nb.server.http import Rejected
from restate_nb.server.ingress import Ingress
from restate_nb.service.wire import jobs_service
from restate_nb.session.session import Session
from tests.support import start_python

NOBODY = 65_534

KERNEL = """
import sys
import restate_nb as rnb

session = rnb.start("kernel", data_dir=sys.argv[1], listen=sys.argv[2])
job = rnb.map(abs, [-1, -2], executor="process", show=False)
job.result()
print(session.endpoint.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, as the one of a notebook often is; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def kernel(data_dir: Path, listen: str) -> subprocess.Popen[str]:
    return start_python(KERNEL, data_dir, listen)


def url_of(process: subprocess.Popen[str]) -> str:
    """Where the kernel listens, once it does."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http"):
            return line.strip()
    raise AssertionError("the kernel has ended")


def listening(data_dir: Path, pid: int) -> tuple[list[Any], list[Any]]:
    """The addresses on which the kernel, its worker processes, the supervisor and the server listen over a network."""
    of_kernel: list[Any] = []
    of_server: list[Any] = []
    ours = psutil.Process(pid)
    for process in [ours, *ours.children(recursive=True)]:
        of_kernel += [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    record = json.loads((data_dir / "server.json").read_text())
    for number in (record["pid"], record["supervisor"]):
        of_server += [
            each.laddr for each in psutil.Process(number).net_connections("inet") if each.status == psutil.CONN_LISTEN
        ]
    return of_kernel, of_server


@pytest.mark.parametrize("listen", ["unix", "tcp"])
def test_nothing_listens_beyond_this_machine_and_the_server_only_if_asked(listen: str, tmp_path: Path) -> None:
    with kernel(tmp_path / ".restate", listen) as process:
        try:
            url = url_of(process)
            of_kernel, of_server = listening(tmp_path / ".restate", process.pid)
        finally:
            process.kill()
    assert [f"http://{each.ip}:{each.port}" for each in of_kernel] == [url]
    assert url.startswith("http://127.0.0.1:")
    assert {each.ip for each in of_server} == (set() if listen == "unix" else {"127.0.0.1"})


def test_all_files_are_private_and_so_is_the_directory(session: Session) -> None:
    assert session.data_dir is not None
    assert session.data_dir.stat().st_mode & 0o777 == 0o700
    seen = 0
    for path in session.data_dir.rglob("*"):
        if path.name == ".gitignore" or path.is_symlink():
            continue
        seen += 1
        assert path.stat().st_mode & 0o077 == 0, path
    assert seen > 10


def as_nobody(what: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Do it as a user without any rights, in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, json.dumps(what()).encode())
        except BaseException as error:
            os.write(writer, json.dumps({"failed": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    os.waitpid(child, 0)
    found: dict[str, str] = json.loads(text)
    return found


def tried(call: Callable[[], object]) -> str:
    """How the attempt ended: `done`, or the name of the error."""
    try:
        call()
    except urllib.error.HTTPError as error:
        return str(error.code)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "done"


def connected(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else; the modes of files are looked at anyway")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads: the child makes system calls only
def test_another_user_of_this_machine_gets_nothing(open_folder: Path) -> None:
    data_dir, beside = open_folder / ".restate", open_folder / "notebook.ipynb"
    beside.write_text("{}")
    of_server: list[psutil.Process] = []
    with kernel(data_dir, "unix") as process:
        try:
            url = url_of(process)
            paths = [str(path) for path in data_dir.rglob("*") if not path.is_symlink()]
            sockets = [path for path in paths if Path(path).is_socket()]
            files = [path for path in paths if Path(path).is_file()]
            record = json.loads((data_dir / "server.json").read_text())
            of_server += [psutil.Process(record["pid"]), psutil.Process(record["supervisor"])]

            def look_around() -> dict[str, str]:
                found = {"beside": tried(beside.read_text), "list": tried(lambda: list(data_dir.iterdir()))}
                found |= {path: tried(lambda path=path: Path(path).read_bytes()) for path in files}  # type: ignore[misc]
                found |= {path: tried(lambda path=path: connected(path)) for path in sockets}  # type: ignore[misc]
                found["make"] = tried(lambda: (data_dir / "mine").write_text(""))
                for place in ("/discover", "/invoke/rnb-kernel/shard"):
                    found[place] = tried(lambda place=place: urllib.request.urlopen(url + place, timeout=5))  # type: ignore[misc]
                for pid in (process.pid, record["pid"], record["supervisor"]):
                    found[f"environment of {pid}"] = tried(Path(f"/proc/{pid}/environ").read_bytes)
                return found

            found = as_nobody(look_around)
        finally:
            process.kill()
            psutil.wait_procs(of_server, timeout=10)
    assert found.pop("beside", found) == "done", "the other user can look around at all"
    assert len(sockets) >= 3 and len(files) > 5
    assert {found.pop("/discover"), found.pop("/invoke/rnb-kernel/shard")} == {"401"}
    assert set(found.values()) <= {"EACCES", "EPERM"}, found


# ---------------------------------------------------------------- the kernel's endpoint


def signature(key: Ed25519PrivateKey, name: str, path: str, *, expires: int = 60, algorithm: str = "EdDSA") -> str:
    """A request's signature as restate-server makes it: of the path, for a minute."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    now = int(time.time())
    head = {"typ": "JWT", "alg": algorithm, "kid": name}
    claims = {"aud": path, "exp": now + expires, "iat": now + expires - 60, "nbf": now + expires - 120}
    text = encoded(json.dumps(head).encode()) + b"." + encoded(json.dumps(claims).encode())
    return (text + b"." + (b"" if algorithm == "none" else encoded(key.sign(text)))).decode()


def test_the_endpoint_takes_only_what_its_own_server_has_signed_for_this_path(session: Session) -> None:
    assert session.data_dir is not None
    key = serialization.load_pem_private_key((session.data_dir / "identity.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    name, other = session.server.identity_key, Ed25519PrivateKey.generate()
    other_name = name[:-4] + "1111"
    run = "/invoke/rnb-tests/shard"

    async def status(path: str, *headers: tuple[str, str]) -> int:
        async with aiohttp.ClientSession() as client:
            method = "POST" if path.startswith("/invoke") else "GET"
            accept = ("accept", "application/vnd.restate.endpointmanifest.v4+json")
            async with client.request(method, session.endpoint.url + path, headers=[accept, *headers]) as answer:
                return answer.status

    def signed(text: str) -> list[tuple[str, str]]:
        return [("x-restate-signature-scheme", "v1"), ("x-restate-jwt-v1", text)]

    async def statuses() -> None:
        assert await status("/discover", *signed(signature(key, name, "/discover"))) == 200
        for path, wrong in (("/discover", run), (run, "/discover"), (run, "/invoke/rnb-tests/durable")):
            refused = {
                "unsigned": [],
                "said to be unsigned": [("x-restate-signature-scheme", "unsigned")],
                "a scheme that there is not": [("x-restate-signature-scheme", "v0")],
                "no signature": [("x-restate-signature-scheme", "v1")],
                "no token": signed("a.b.c"),
                "replayed for another path": signed(signature(key, name, wrong)),
                "of another key": signed(signature(other, name, path)),
                "of another key by its name": signed(signature(other, other_name, path)),
                "long ago": signed(signature(key, name, path, expires=-300)),
                "in some hours": signed(signature(key, name, path, expires=9_000)),
                "without an algorithm": signed(signature(key, name, path, algorithm="none")),
            }
            for what, headers in refused.items():
                assert await status(path, *headers) == 401, f"{path}: {what}"

    asyncio.run(statuses())


def test_a_request_that_is_none_is_refused_by_the_handlers_and_not_tried_for_ever(session: Session) -> None:
    rnb.map(abs, [-1], session=session, name="there", show=False).result(20)

    async def answers() -> None:
        async with Ingress(session.server.ingress) as ingress:
            service, key = jobs_service("tests"), "there"
            for handler, body in (("change", b"{"), ("open", b"[]"), ("change", b'{"generation": 1, "submitted": 9}')):
                async with asyncio.timeout(10):
                    with pytest.raises((InvocationFailed, Rejected)):
                        await ingress.call(service, handler, body, key=key)
            bad_round = b'{"generation": 1, "add_round": {"positions": [1], "code": "c", "started": 1}}'
            with pytest.raises(InvocationFailed, match="position 1, and there are 1 items"):
                await ingress.call(service, "change", bad_round, key=key)
            for handler in ("open", "change", "forget"):
                async with asyncio.timeout(10):
                    with pytest.raises(InvocationFailed, match="no body"):
                        await ingress.call(service, handler, b"", key=key)
            twice = b'{"job":"j","generation":1,"round":0,"shard":0,"function":"f","positions":[1,1],"items":[1,2]}'
            with pytest.raises(InvocationFailed, match="two items at one position"):
                await ingress.call("rnb-tests", "shard", twice)

    asyncio.run(answers())
