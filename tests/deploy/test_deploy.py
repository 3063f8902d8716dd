"""Proves that the files of docs/deploy/ hold together, and that what they start runs a job."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import restate_nb as rnb
from restate_nb.server.binary import VERSION, ensure_binary
from restate_nb.server.identity import identity_key
from restate_nb.server.settings import QUIET
from restate_nb.workers import command as worker_command
from tests.deploy.files import FOLDER, KINDS, Started, compose, kubernetes, manifests, unit
from tests.workers.crew import free_port

PORTS = {"fabric": 5122, "ingress": 8080, "admin": 9070, "workers": 9080}


class Here:
    """Where things are on this machine that the files have elsewhere."""

    def __init__(self, folder: Path) -> None:
        (folder / "keys").mkdir()
        self.key = identity_key(folder / "keys")
        self.ports = {name: free_port() for name in PORTS}
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        self._places = {
            r"/restate-data|/var/lib/restate": str(folder / "data"),
            r"/run/secrets/identity|/etc/restate/identity.pem|%d/identity.pem": str(folder / "keys" / "identity.pem"),
            r"\$\{IDENTITY_KEY[^}]*\}|\$\(IDENTITY_KEY\)": self.key,
            **{rf"(restate|workers|0\.0\.0\.0|127\.0\.0\.1):{PORTS[name]}\b": at[name] for name in PORTS},
        }
        self.bound = {
            "RESTATE_BIND_ADDRESS": at["fabric"],
            "RESTATE_ADVERTISED_ADDRESS": f"http://{at['fabric']}/",
            "RESTATE_INGRESS__BIND_ADDRESS": at["ingress"],
            "RESTATE_ADMIN__BIND_ADDRESS": at["admin"],
        }

    def __call__(self, text: str) -> str:
        for elsewhere, here in self._places.items():
            text = re.sub(elsewhere, here, text)
        assert not re.search(r"restate:|workers:|\$|%", text), text
        return text


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_starts_runs_a_job(kind: str, tmp_path: Path) -> None:
    """The command lines and environments as they stand in the file, with ports and paths of this machine."""
    restate, workers = KINDS[kind]()
    here = Here(tmp_path)
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("RESTATE_")}
    set_there = {name: here(value) for name, value in restate.environment.items()}
    running: list[subprocess.Popen[bytes]] = []
    session: rnb.Session | None = None

    def start(log: str, command: list[str], environment: dict[str, str]) -> Path:
        path = tmp_path / log
        with path.open("wb") as file:
            running.append(
                subprocess.Popen(command, env={**inherited, **environment}, stdout=file, stderr=file, cwd=FOLDER)
            )
        return path

    try:
        server = [str(ensure_binary()), *map(here, restate.command)]
        log = start("restate.log", server, {**QUIET, **here.bound, **set_there})
        # They start at once, as they do there: a worker waits for its server.
        assert workers.command[0] == "restate-nb"
        worker = [sys.executable, "-m", "restate_nb.cli", *map(here, workers.command[1:])]
        logs = [start(f"worker-{each}.log", worker, {"PYTHONDONTWRITEBYTECODE": "1"}) for each in range(workers.count)]
        wait_for(lambda: all("ready: session 'survey'" in each.read_text() for each in logs), running, [log, *logs])
        # That is how the pages find out the key.
        assert set(re.findall(r"publickeyv1_[A-Za-z0-9]*", log.read_text())) == {here.key}
        ingress, admin = (f"http://127.0.0.1:{here.ports[each]}" for each in ("ingress", "admin"))
        session = rnb.connect(ingress, admin_url=admin, name="survey", token="")
        job = rnb.map("jobs:digest", ["a", "b"] * 300, concurrency=64, session=session, show=False)
        values = job.values()
        assert len(set(values)) == 2 and values[:2] == values[2:4]
        assert values[0].startswith("ca978112ca1bbdca")
        assert set(job.workers()["process"]) <= {each.pid for each in running[1:]}
        running[1].terminate()
        assert running[1].wait(30) == 0
        assert "stopped" in logs[0].read_text()
    finally:
        if session is not None:
            session.stop()
        for process in running:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], running: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    end = time.monotonic() + 90
    while not condition():
        said = "\n".join(log.read_text()[-2_000:] for log in logs)
        assert all(process.poll() is None for process in running), said
        assert time.monotonic() < end, said
        time.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_is_the_version_that_this_release_was_tested_with(kind: str) -> None:
    image = KINDS[kind]()[0].image
    assert image in ("", f"docker.restate.dev/restatedev/restate:{VERSION}")
    assert kind == "systemd" or image


@pytest.mark.parametrize("kind", KINDS)
def test_workers_are_given_the_time_to_drain(kind: str) -> None:
    parser = argparse.ArgumentParser()
    worker_command.configure(parser)
    workers: Started = KINDS[kind]()[1]
    arguments = parser.parse_args(workers.command[2:])
    assert workers.grace is not None and workers.grace > arguments.drain
    assert arguments.serve == ["jobs"] and not arguments.no_identity


def test_what_kubernetes_selects_is_there() -> None:
    declared = manifests()
    pods: dict[str, Any] = {}
    for kind in ("StatefulSet", "Deployment"):
        for (each, name), manifest in declared.items():
            if each == kind:
                labels = manifest["spec"]["template"]["metadata"]["labels"]
                assert manifest["spec"]["selector"]["matchLabels"] == labels
                pods[name] = manifest["spec"]["template"]["spec"]
                assert declared["Service", name]["spec"]["selector"] == labels
                assert declared["NetworkPolicy", name]["spec"]["podSelector"]["matchLabels"] == labels
    assert set(pods) == {"restate", "workers"}
    for name, pod in pods.items():
        (container,) = pod["containers"]
        listens = {each["containerPort"] for each in container["ports"]}
        assert {each["port"] for each in declared["Service", name]["spec"]["ports"]} == listens
        allowed = {
            port["port"] for rule in declared["NetworkPolicy", name]["spec"]["ingress"] for port in rule["ports"]
        }
        assert allowed == listens
        claims = {
            each["metadata"]["name"] for each in declared["StatefulSet", "restate"]["spec"]["volumeClaimTemplates"]
        }
        volumes = {each["name"] for each in pod.get("volumes", [])} | (claims if name == "restate" else set())
        assert {each["name"] for each in container.get("volumeMounts", [])} == volumes
    secret = pods["restate"]["volumes"][0]["secret"]["secretName"]
    key = next(each for each in pods["workers"]["containers"][0]["env"] if each["name"] == "IDENTITY_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": secret, "key": "IDENTITY_KEY"}


def test_nothing_is_open_to_other_machines_but_what_must_be() -> None:
    """Compose publishes on loopback, systemd binds there, and workers always ask for a signature."""
    text = (FOLDER / "compose.yaml").read_text()
    assert re.findall(r'"([\d.]*):?\d+:\d+"', text) == ["127.0.0.1"] * 2
    bound = [each for each in unit("restate-server.service")["Environment"] if "BIND_ADDRESS" in each]
    assert len(bound) == 3 and all("=127.0.0.1:" in each for each in bound)
    for started in (compose, kubernetes):
        server = started()[0].environment
        assert "RESTATE_WORKER__INVOKER__REQUEST_IDENTITY_PRIVATE_KEY_PEM_FILE" in server


def test_the_units_are_units() -> None:
    """Where systemd is there to say so: it complains of nothing but programs that are not on this machine."""
    names = ["restate-server.service", "restate-nb-worker@.service"]
    for name in names:
        settings = unit(name)
        assert settings["Restart"] == ["always"] and len(settings["ExecStart"]) == 1 and settings["WantedBy"]
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run(
            [analyze, "verify", *(str(FOLDER / name) for name in names)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if "is not executable" not in line]
        assert not said, said


def test_the_dockerfile_copies_what_is_there() -> None:
    root = FOLDER.parents[1]
    for line in (FOLDER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (root / source).exists(), source
