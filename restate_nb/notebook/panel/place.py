"""Where this process shows things: a notebook, a terminal, or neither."""

from __future__ import annotations

import os
import sys

from restate_nb.server.address import Address

_LOOPBACK = ("http://127.0.0.1:", "http://localhost:")


def in_notebook() -> bool:
    """Whether cells are run in a Jupyter kernel, where outputs may be HTML and pictures."""
    # Whoever runs in a kernel has imported IPython; importing it elsewhere would cost 200 ms for nothing.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


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


def ui_link(admin: Address) -> str:
    """Where the reader's browser finds the Restate UI of a server; empty where it cannot.

    A server on Unix sockets has no address for a browser. Behind a JupyterHub, as on Binder, loopback ports are those
    of another machine, and jupyter-server-proxy does not help: the UI asks for `/ui/...` at the root of its host,
    whatever path it was found under. A notebook that nobody looks at keeps no link: it would be dead when it is read.
    """
    if admin.socket is not None or not admin.url.startswith(_LOOPBACK):
        return ""
    if "JUPYTERHUB_SERVICE_PREFIX" in os.environ or "google.colab" in sys.modules or not somebody_can_click():
        return ""
    return f"{admin.url.rstrip('/')}/ui/invocations"
