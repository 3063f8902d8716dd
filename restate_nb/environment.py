"""Where this process shows things: a notebook, a terminal, or neither."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

from restate_nb.errors import ServerError
from restate_nb.server.address import Address

_LOOPBACK = ("http://127.0.0.1:", "http://localhost:")


def in_notebook() -> bool:
    """Whether cells are run in a Jupyter kernel, where outputs may be HTML and pictures."""
    # Whoever runs in a kernel has imported IPython; importing it elsewhere would cost 200 ms for nothing.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def this_cell() -> int | None:
    """The number of the cell that runs; None outside of IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell.execution_count if shell is not None else None


def in_terminal() -> bool:
    """Whether somebody reads stderr as it is written, and lines may be overwritten."""
    return sys.stderr is not None and sys.stderr.isatty()


def in_voila() -> bool:
    """Whether Voilà runs this notebook as a page: there nothing but widgets changes once its cell has ended."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")


def somebody_can_click() -> bool:
    """Whether a person may look at this kernel's notebook while it runs.

    nbclient, papermill and `jupyter nbconvert --execute` start kernels themselves; what a Jupyter server starts has a
    session name, and VS Code and Colab start kernels in ways of their own.
    """
    return "JPY_SESSION_NAME" in os.environ or "JPY_PARENT_PID" not in os.environ or in_voila()


def ui_link(admin: Address, data_dir: Path | None = None) -> str:
    """Where the reader's browser finds the Restate UI of a server; empty where it cannot.

    Through jupyter-server-proxy it is a path on the host of the notebook's page, which is right on a JupyterHub and on
    Binder too. Without it, a server on Unix sockets has no address for a browser, and behind a JupyterHub loopback
    ports are those of another machine. A notebook that nobody looks at keeps no link: it would be dead when it is read.

    Args:
        admin: the server's admin interface.
        data_dir: of the server, where it is one's own.
    """
    if "google.colab" in sys.modules or in_voila() or not somebody_can_click():
        return ""
    if data_dir is not None and (proxied := _proxied(data_dir, _prefix())):
        return f"{proxied}/ui/invocations"
    if "JUPYTERHUB_SERVICE_PREFIX" in os.environ or not admin.url.startswith(_LOOPBACK) or admin.socket is not None:
        return ""
    return f"{admin.url.rstrip('/')}/ui/invocations"


def _prefix() -> str:
    """The path of the Jupyter server that started this kernel, with a slash at its end; empty when none did."""
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return prefix
    if "JPY_SESSION_NAME" not in os.environ:  # an IDE's, whose pages are not on the server's host
        return ""
    return _prefix_of(os.environ.get("JPY_PARENT_PID", ""))


@functools.cache
def _prefix_of(pid: str) -> str:
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - there where a kernel is

    try:
        told = json.loads(Path(jupyter_runtime_dir(), f"jpserver-{pid}.json").read_bytes())
        return str(told["base_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@functools.cache
def _proxied(data_dir: Path, prefix: str) -> str:
    """The path at which jupyter-server-proxy gives our own server's UI; empty where it does not."""
    if not prefix or importlib.util.find_spec("jupyter_server_proxy") is None:
        return ""
    from restate_nb.server import ui  # noqa: PLC0415 - for the few who have a link

    try:
        return f"{prefix}{ui.NAME}/{ui.publish(data_dir)}"
    except ServerError:  # there is no private place for what leads to it
        return ""
