"""The environments that peers are installed into: one each, in the user's cache, made once for each set of pins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

PINS: dict[str, list[str]] = {
    "asyncio": [],
    "restate_nb": [],
    "Restate SDK": [],
    "joblib": ["joblib==1.6.0"],
    "Dask": ["dask==2026.8.0", "distributed==2026.8.0"],
    "Ray": ["ray==2.60.0"],
    "ipyparallel": ["ipyparallel==9.2.0"],
    "DBOS": ["dbos==3.4.0"],
}
"""What to install for each peer; those without pins run in this environment."""


@dataclass(frozen=True)
class Environment:
    """The Python that a peer runs on, and what is installed there; or the reason why there is none."""

    python: Path
    packages: dict[str, str] = field(default_factory=dict)
    missing: str = ""


def prepare(peer: str) -> Environment:
    pins = PINS[peer]
    if not pins:
        return Environment(Path(sys.executable))
    wanted = hashlib.sha256("\n".join([sys.version, *pins]).encode()).hexdigest()[:12]
    folder = Path(platformdirs.user_cache_dir("restate-nb"), "benchmarks", f"{peer.lower()}-{wanted}")
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"Installing {' '.join(pins)} into an environment of its own, once ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)  # one that an earlier run did not get ready
        venv.create(folder, with_pip=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *pins], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
            return Environment(python, missing=reason)
        ready.touch()
    return Environment(python, packages=_versions(python))


def _versions(python: Path) -> dict[str, str]:
    """All that is installed there, by name."""
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("==") for line in listed.splitlines() if "==" in line)
