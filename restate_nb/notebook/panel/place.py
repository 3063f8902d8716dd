"""Where this process shows things: a notebook, a terminal, or neither."""

from __future__ import annotations

import os
import sys


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
