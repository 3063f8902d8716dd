"""Where this process runs: in a notebook, at IPython's prompt, in a terminal; who looks at it, and from where."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

_FRONT_ENDS: Final = {"ZMQInteractiveShell": "a Jupyter kernel", "TerminalInteractiveShell": "IPython in a terminal"}


def ipython_shell() -> Any:
    """IPython's shell; None where no IPython runs the cells."""
    # Whoever runs in one has imported IPython; importing it elsewhere would cost 200 ms for nothing.
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def jupyter_kernel() -> Any:
    """The kernel that runs the cells; None outside of Jupyter, as at the prompt of a terminal's IPython."""
    return getattr(ipython_shell(), "kernel", None)


def in_notebook() -> bool:
    """Whether cells are run in a Jupyter kernel, where outputs may be HTML and pictures."""
    return jupyter_kernel() is not None


def this_cell() -> int | None:
    """The number of the cell that runs; None outside of IPython."""
    shell = ipython_shell()
    return None if shell is None else shell.execution_count


def front_end() -> str:
    """What runs the code, in words."""
    shell = ipython_shell()
    if shell is None:
        return "a script or a terminal"
    return _FRONT_ENDS.get(type(shell).__name__, type(shell).__name__)


def in_terminal() -> bool:
    """Whether somebody reads stderr as it is written, and lines may be overwritten."""
    return sys.stderr is not None and sys.stderr.isatty()


def in_voila() -> bool:
    """Whether Voilà runs this notebook as a page: there nothing but widgets changes once its cell has ended."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")


def in_colab() -> bool:
    """Whether this is a notebook of Google Colab, whose page is on another host."""
    return "google.colab" in sys.modules


def behind_hub() -> bool:
    """Whether a JupyterHub leads to this notebook: the ports of this machine are not those of the reader's."""
    return "JUPYTERHUB_SERVICE_PREFIX" in os.environ


def somebody_can_click() -> bool:
    """Whether a person may look at this kernel's notebook while it runs.

    nbclient, papermill and `jupyter nbconvert --execute` start kernels themselves; what a Jupyter server starts has a
    session name, and VS Code and Colab start kernels in ways of their own.
    """
    return "JPY_SESSION_NAME" in os.environ or "JPY_PARENT_PID" not in os.environ or in_voila()


def notebook_file() -> str | None:
    """The path of the notebook whose cells run here; None where nobody has said so, or there is none."""
    return os.environ.get("JPY_SESSION_NAME") or getattr(sys.modules["__main__"], "__vsc_ipynb_file__", None)


def jupyter_base_url() -> str:
    """The path of the Jupyter server that started this kernel, with a slash at its end; empty when none did."""
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return prefix
    if "JPY_SESSION_NAME" not in os.environ:  # an IDE's, whose pages are not on the server's host
        return ""
    return _base_url_of(os.environ.get("JPY_PARENT_PID", ""))


@functools.cache
def _base_url_of(pid: str) -> str:
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - there where a kernel is

    try:
        told = json.loads(Path(jupyter_runtime_dir(), f"jpserver-{pid}.json").read_bytes())
        return str(told["base_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
