"""Where the reader's browser finds the Restate UI of a server."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Final

from restate_nb.environment import behind_hub, in_colab, in_voila, jupyter_base_url, somebody_can_click
from restate_nb.errors import ServerError
from restate_nb.server.address import Address, make_link

NAME: Final = "restate-nb"
"""The path of the UI under that of the Jupyter server, and the name of the entry point of jupyter-server-proxy."""

_LOOPBACK: Final = ("http://127.0.0.1:", "http://localhost:")


def ui_link(admin: Address, data_dir: Path | None = None) -> str:
    """The address of the UI's page of invocations; empty where the reader's browser cannot reach it.

    Through jupyter-server-proxy it is a path on the host of the notebook's page, which is right on a JupyterHub and on
    Binder too. Without it, a server on Unix sockets has no address for a browser, and behind a JupyterHub loopback
    ports are those of another machine. A notebook that nobody looks at keeps no link: it would be dead when it is read.

    Args:
        admin: the server's admin interface.
        data_dir: of the server, where it is one's own.
    """
    if in_colab() or in_voila() or not somebody_can_click():
        return ""
    if data_dir is not None and (proxied := _proxied(data_dir, jupyter_base_url())):
        return f"{proxied}/ui/invocations"
    if behind_hub() or not admin.url.startswith(_LOOPBACK) or admin.socket is not None:
        return ""
    return f"{admin.url.rstrip('/')}/ui/invocations"


def publish(data_dir: Path) -> str:
    """The name under which the UI of this directory's server is found, after `NAME`.

    Raises:
        ServerError: there is no private place for the link that says which directory it is.
    """
    return make_link(data_dir).name


@functools.cache
def _proxied(data_dir: Path, base_url: str) -> str:
    """The path at which jupyter-server-proxy gives our own server's UI; empty where it does not."""
    if not base_url or importlib.util.find_spec("jupyter_server_proxy") is None:
        return ""
    try:
        return f"{base_url}{NAME}/{publish(data_dir)}"
    except ServerError:  # there is no private place for what leads to it
        return ""
