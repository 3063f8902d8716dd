"""Names of sessions and jobs: which are allowed, and what a session is called by default."""

from __future__ import annotations

import getpass
import re
import sys
from pathlib import Path

from restate_nb.environment import notebook_file
from restate_nb.errors import InvalidInput

_SESSION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")


def check_session_name(name: object) -> str:
    """A name that a Restate service can have.

    Raises:
        InvalidInput: it has other characters, or is too long.
    """
    if not isinstance(name, str) or not _SESSION.fullmatch(name):
        raise InvalidInput(
            "A session's name is part of a Restate service's name: a letter, then letters, digits, - and _, at most "
            f"60 in all. {name!r} is not; {_slug(str(name))!r} would do."
        )
    return name


def check_job_name(name: object) -> str:
    """A name that a job can have.

    Raises:
        InvalidInput: it is no text, empty, too long, or has characters that cannot be printed.
    """
    if (
        not isinstance(name, str)
        or not name.strip()
        or not name.isprintable()
        or len(name) > 200
        or name != name.strip()
    ):
        raise InvalidInput(
            "A job's name is printable text of 1 to 200 characters without spaces around it, such as "
            f"name='geocode-2026'; {name!r} is not."
        )
    return name


def default_session_name() -> str:
    """The name of the notebook or script that runs here, as far as it can be known; else `main`."""
    notebook = notebook_file()
    script = getattr(sys.modules["__main__"], "__file__", None)
    if not notebook and script and "ipykernel" not in script:
        notebook = script
    return _slug(Path(notebook).stem) if notebook else "main"


def default_shared_name() -> str:
    """The same with the user's name before it, for a Restate that many people use."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in /etc/passwd
        user = "user"
    return _slug(f"{user}-{default_session_name()}")


def _slug(text: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60]
    return slug if slug[:1].isalpha() else f"nb-{slug}".rstrip("-")[:60]
