"""What a change must pass, by name: `nox -l` lists it, `nox -s lint types` runs some of it, `.ci/run` and CI run all.

Each session has an environment of its own, which is kept for the next time. `nox --no-venv` takes the one that nox is
in: `.venv/bin/nox --no-venv -s tests -- tests/engine`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "docs", "tests"]

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

PYTEST = ["pytest", "-n", "3", "--dist", "loadfile"]
"""As in the README."""

BESIDE = ["tests/browser", "tests/deploy", "tests/docs", "tests/examples", "tests/notebooks"]
"""The second group of tests: pages, notebooks and what is shown in a browser. It can run beside the first."""

CORE = [
    "tests/values",
    "tests/engine",
    "tests/service",
    "tests/panel/test_render.py",
    "tests/panel/test_trend.py",
    "tests/test_exports.py",
    "tests/test_tracebacks.py",
    "tests/results/test_frames.py",
    "tests/results/test_ledger.py",
    "tests/results/test_spool.py",
    "tests/patterns/test_fan_out.py",
    "tests/patterns/test_mock_context.py",
    "tests/patterns/test_scheduler.py",
    "tests/handle/test_job.py",
    "tests/backends/test_durable.py",
    "tests/session/test_session.py",
]
"""Tests of each floor of the house: what is run on every Python, and with the oldest dependencies."""

CORE_NEEDS = [
    "attrs",
    "httpx",
    "hypothesis",
    "polars",
    "psutil",
    "pydantic",
    "pytest",
    "pytest-asyncio",
    "pytest-xdist",
    "requests",
    "sqlalchemy",
]
"""Those of the extra `test` that these need: an environment is made in half a minute."""


def install(session: nox.Session, *requirements: str) -> None:
    """Fill the session's environment; with `--no-venv` all is there."""
    if session.venv_backend != "none":
        session.install(*requirements)


def interpreter(session: nox.Session) -> str:
    """The session's Python."""
    return sys.executable if session.venv_backend == "none" else f"{session.bin}/python"


def python(session: nox.Session, *arguments: str) -> None:
    """Run a module with the session's Python."""
    session.run(interpreter(session), "-m", *arguments, external=True)


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Run tests, on the restate-server that a user would get."""
    python(session, "restate_nb.cli", "server", "install")
    python(session, *PYTEST, *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and how files are formatted."""
    install(session, "ruff>=0.9")
    python(session, "ruff", "check", ".")
    python(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, as mypy and pyright see them."""
    install(session, "-e", ".[dev]")
    python(session, "mypy", "restate_nb", "benchmarks", "tests/typing")
    python(session, "pyright", "--pythonpath", interpreter(session))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, without a warning."""
    install(session, "-e", ".[docs]")
    python(session, "sphinx", "-W", "--keep-going", "-q", "docs", "docs/_build/html")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or those that are named: `nox -s tests -- tests/engine -k pool`."""
    install(session, "-e", ".[server,lab,test]")
    run_tests(session, *session.posargs)


@nox.session(name="tests-jobs")
def tests_jobs(session: nox.Session) -> None:
    """The first group: all that the second has not."""
    install(session, "-e", ".[server,lab,test]")
    run_tests(session, *(f"--ignore={path}" for path in BESIDE), *session.posargs)


@nox.session(name="tests-pages")
def tests_pages(session: nox.Session) -> None:
    """The second group: documentation, notebooks, JupyterLab in Chromium. It can run beside the first."""
    install(session, "-e", ".[server,lab,test,docs]")
    run_tests(session, *BESIDE, *session.posargs)


@nox.session(name="tests-core", python=PYTHONS)
def tests_core(session: nox.Session) -> None:
    """A minute's choice of tests on each Python that this machine has."""
    install(session, "-e", ".[server]", *CORE_NEEDS)
    run_tests(session, *CORE, *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The same tests with the oldest dependencies that pyproject.toml allows."""
    install(session, "-e", ".[server]", *CORE_NEEDS, "-c", "constraints/oldest.txt")
    run_tests(session, *CORE, *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Overhead at a tenth of the size, and the hot paths beside the commit before."""
    install(session, "-e", ".[server,test]")
    Path("artifacts").mkdir(exist_ok=True)
    python(session, "benchmarks", "overhead", "--small", "--repeat", "1", "--json", "artifacts/overhead.json")
    python(session, "benchmarks", "regress", "--fast", "--json", "artifacts/regress.json")


@nox.session
def release(session: nox.Session) -> None:
    """Wheel and sdist: built, checked, and the demo run from the wheel in a clean environment."""
    install(session, "-e", ".", "build", "twine")
    session.run("bash", ".ci/release", env={"PYTHON": interpreter(session)}, external=True)


@nox.session
def binder(session: nox.Session) -> None:
    """What mybinder.org would build, and the quickstart there."""
    install(session, "-e", ".[server,lab,test]")
    session.run("bash", ".ci/binder", env={"PYTHON": interpreter(session)}, external=True)
