"""What the files of docs/deploy/ start: the command lines and environments of Restate and of the workers."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "docs" / "deploy"


@dataclass(frozen=True)
class Started:
    """A process that a file starts.

    Attributes:
        command: the program and its arguments; for an image whose program is given, the arguments alone.
        environment: what the file sets.
        image: the container's image; empty when there is none.
        count: how many there are.
        grace: seconds between SIGTERM and SIGKILL.
    """

    command: list[str]
    environment: dict[str, str]
    image: str = ""
    count: int = 1
    grace: float | None = None


def compose() -> tuple[Started, Started]:
    """Restate and the workers of the compose file."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    restate, workers = services["restate"], services["workers"]
    return (
        Started(restate["command"], restate["environment"], restate["image"]),
        Started(
            workers["command"],
            {},
            count=workers["deploy"]["replicas"],
            grace=float(workers["stop_grace_period"].removesuffix("s")),
        ),
    )


def manifests() -> dict[tuple[str, str], Any]:
    """What the Kubernetes file declares, by kind and name."""
    found = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def kubernetes() -> tuple[Started, Started]:
    """Restate and the workers of the Kubernetes file."""
    made = []
    for key in (("StatefulSet", "restate"), ("Deployment", "workers")):
        spec = manifests()[key]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        command = [*container.get("command", []), *container.get("args", [])]
        environment = {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
        grace = spec["template"]["spec"].get("terminationGracePeriodSeconds")
        made.append(Started(command, environment, container["image"], spec["replicas"], grace))
    return made[0], made[1]


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit file; each may be there several times."""
    found = defaultdict[str, list[str]](list)
    for line in (FOLDER / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def systemd() -> tuple[Started, Started]:
    """Restate and the workers of the unit files, without the path of the server's program."""
    restate, worker = unit("restate-server.service"), unit("restate-nb-worker@.service")
    environment = dict(each.split("=", 1) for each in restate["Environment"])
    (program, *server), command = shlex.split(restate["ExecStart"][0]), shlex.split(worker["ExecStart"][0])
    assert Path(program).name == "restate-server"
    command[0] = Path(command[0]).name
    return Started(server, environment), Started(command, {}, count=2, grace=float(worker["TimeoutStopSec"][0]))


KINDS = {"compose": compose, "kubernetes": kubernetes, "systemd": systemd}
