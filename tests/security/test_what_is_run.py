"""Proves whose code runs: nothing is unpickled that came over a network, nothing is imported by a name that others may
have written, nothing is evaluated; and what is shown of others is text."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import restate

import restate_nb as rnb
from restate_nb.engine import process_child
from restate_nb.engine.function import Function
from restate_nb.panel import to_html
from restate_nb.policy import RunPolicy
from restate_nb.server.handle import ServerHandle
from restate_nb.server.ingress import Ingress
from restate_nb.server.lifecycle import start_server
from restate_nb.service import run_spec
from restate_nb.service.wire import jobs_service
from restate_nb.session.session import Session
from tests.handle import importable

PACKAGE = Path(rnb.__file__).parent
TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}

PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "_pickle", "cPickle"}


def imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found


def calls(tree: ast.Module) -> Iterator[str]:
    """Names of what is called, such as `pickle.loads`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_pickles_are_read_in_worker_processes_and_where_the_user_asked_for_them() -> None:
    """Of the whole package one module reads what is for worker processes, one values of jobs with `pickle=True`: see
    tests/values/test_pickled_values.py. Digests of constants of code are of what `marshal.dumps` writes, and nothing
    reads that."""
    assert {path for path, tree in TREES.items() if imports(tree) & PICKLES} == {
        "engine/pickling.py",
        "engine/process_child.py",
        "service/identity/content.py",
        "testing/elsewhere.py",
        "testing/replaying.py",
        "values/pickles.py",
    }
    loads = {path: [call for call in calls(tree) if call.endswith((".loads", ".load"))] for path, tree in TREES.items()}
    pickled = {path: found for path, found in loads.items() if any("pickle" in call.lower() for call in found)}
    assert pickled == {
        "engine/process_child.py": ["pickle.loads", "self.load", "pickle.loads"],
        "testing/replaying.py": ["pickle.loads"],  # a mock's strict replay, in a process of its own: from its pipe
        "values/pickles.py": ["_Unpickler(io.BytesIO(data)).load"],
    }
    for path, tree in TREES.items():
        hidden = [call for call in calls(tree) if call.endswith(("read_pickle", "np.load", "allow_pickle"))]
        assert hidden == [], path


def test_what_a_worker_process_unpickles_comes_over_the_socket_that_it_inherited() -> None:
    """The calls are of what `_read` reads, from the socket that `main` makes of a descriptor of the command line."""
    tree = TREES["engine/process_child.py"]
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert [name for name, text in functions.items() if "pickle.loads" in text] == ["call_pickled", "load"]
    assert "socket.socket(fileno=descriptor)" in functions["main"]
    opened = [call for call in calls(tree) if call.startswith(("socket.", "open", "urllib", "aiohttp", "Path"))]
    assert opened == ["socket.socket"]
    users = [path for path, each in TREES.items() if "call_pickled" in ast.unparse(each)]
    assert users == ["engine/function.py", "engine/process_child.py"]
    assert process_child.command(7, 8)[-2] == "7 8"


def test_worker_processes_have_one_socket_pair_and_no_address(session: Session) -> None:
    def family(_: int) -> list[str]:
        mine = psutil.Process()
        return [str(each.laddr) for each in mine.net_connections("inet")]

    values = rnb.map(family, [1, 2], executor="process", concurrency=1, session=session, show=False).values()
    assert values == [[], []]


def test_nothing_is_evaluated_and_no_shell_is_used() -> None:
    for path, tree in TREES.items():
        bad = {"eval", "exec", "compile", "os.system", "os.popen", "__import__"} & set(calls(tree))
        if path == "service/identity/code.py":  # compiles the user's own source, to compare it with what is loaded
            bad.remove("compile")
        assert not bad, f"{path}: {bad}"
        for node in ast.walk(tree):
            shell = isinstance(node, ast.keyword) and node.arg == "shell"
            assert not shell, f"{path}: shell="


def test_only_kept_recipes_are_imported_by_name() -> None:
    """Besides the package's own modules, and those that the command line of a worker names."""
    by_name = [path for path, tree in TREES.items() if "importlib.import_module" in set(calls(tree))]
    assert by_name == ["__init__.py", "cli.py", "service/run_spec.py", "workers/served_functions.py"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    """A Restate on loopback ports: any user of the machine can write there."""
    with start_server(tmp_path_factory.mktemp("cluster") / ".restate", listen="tcp") as handle:
        yield handle


def planted(recipe: str) -> bytes:
    """A job that names a function for others to import."""
    manifest = {"version": 1, "name": "planted", "function": "innocent", "items": "0", "options": "value", "total": 1}
    round_ = {"positions": None, "code": "c", "started": 1.0, "submitted": True}
    manifest |= {"created": 1.0, "rounds": [round_], "recipe": recipe}
    return json.dumps({"manifest": manifest, "fresh": True}).encode()


async def plant(handle: ServerHandle, session: str, recipe: str) -> None:
    """As anybody can who reaches the ingress: a manifest and the shard of its item."""
    async with Ingress(handle.ingress) as ingress:
        answer = await ingress.call(jobs_service(session), "open", planted(recipe), key="planted")
        generation = json.loads(answer)["generation"]
        shard = {"job": "planted", "generation": generation, "round": 0, "shard": 0, "function": "innocent"}
        body = json.dumps(shard | {"positions": [0], "items": ["x"]}).encode()
        await ingress.send(f"rnb-{session}", "shard", body, idempotency_key=f"planted/{generation}/0/0")


EVIL = """
import os, pathlib
pathlib.Path(os.environ["RNB_TESTS_EVIL"]).write_text("imported")
def run(item):
    return item
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a trace when it is imported; gives the trace's path."""
    (tmp_path / "rnb_tests_evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RNB_TESTS_EVIL", str(tmp_path / "trace"))
    yield tmp_path / "trace"
    sys.modules.pop("rnb_tests_evil", None)


def recipe_for(function: str) -> str:
    kept = run_spec.run_spec_of(Function(importable.slowly, "value"), RunPolicy())
    assert kept is not None
    return json.dumps(json.loads(kept) | {"function": function})


def free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_connected_session_imports_nothing_by_a_name_that_came_from_the_server(
    cluster: ServerHandle, evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"admin_url": cluster.admin.url, "identity_key": cluster.identity_key, "name": "shared"}
    with rnb.connect(cluster.ingress.url, endpoint=free_endpoint(), **options):
        asyncio.run(plant(cluster, "shared", recipe_for("rnb_tests_evil:run")))
    capsys.readouterr()
    with rnb.connect(cluster.ingress.url, endpoint=free_endpoint(), **options) as session:
        told = capsys.readouterr().out
        assert "'planted' waits for innocent: run its cell" in told
        rnb.jobs(session)
        session.job("planted")
        rnb.map(abs, [-1], session=session, show=False).result(20)
    assert not evil.exists() and "rnb_tests_evil" not in sys.modules


@pytest.mark.parametrize("listen", ["tcp", "unix"])
def test_names_are_imported_from_a_server_that_only_this_user_can_reach(
    listen: Any, evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same record on a server of one's own: on Unix sockets it is one's own word; on ports it may be anybody's."""
    with Session("own", tmp_path / ".restate", listen=listen) as session:
        asyncio.run(plant(session.server, "own", recipe_for("rnb_tests_evil:run")))
    capsys.readouterr()
    with Session("own", tmp_path / ".restate", listen=listen) as session:
        if listen == "unix":
            assert "'planted' goes on" in capsys.readouterr().out
            assert session.job("planted").result(20)["value"].tolist() == ["x"]
        else:
            assert "'planted' waits for innocent" in capsys.readouterr().out
    assert evil.exists() == (listen == "unix")


def test_an_unreadable_record_of_others_is_left_out_and_told(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    rnb.map(abs, [-1], session=session, name="mine", show=False).result(20)
    theirs = restate.VirtualObject(jobs_service("other"))

    @theirs.handler()
    async def spoil(ctx: restate.ObjectContext) -> None:
        ctx.set("manifest", {"total": -1})

    session.endpoint.serve(theirs)
    session.io.run(session.deployments.register())
    session.call(spoil, key="theirs")
    caplog.clear()
    listed = set(rnb.jobs(session)["name"])
    assert "mine" in listed and "theirs" not in listed
    assert "A job of the session 'other' is left out. What Restate gives as the record of a job" in caplog.text
    with pytest.raises(rnb.InvalidInput, match="no job 'theirs'"):
        session.job("theirs")


def test_what_others_wrote_is_shown_as_text(session: Session) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)>"

    def fails(item: str) -> str:
        raise ValueError(item)

    job = rnb.map(fails, [bad], name=bad, session=session, show=False)
    frame = job.result(20)
    shown = [to_html(job.progress()), frame.to_html(), rnb.jobs(session).to_html(), job.errors().to_html()]
    for html in shown:
        assert "<script" not in html and "<img src=x" not in html
    assert any("&lt;script" in html for html in shown)
