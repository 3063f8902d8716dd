"""Where the Restate UI is linked: only there where the reader's browser can reach it."""

import importlib.util
import re
from pathlib import Path

import pytest

from restate_nb import environment
from restate_nb.server.address import Address
from restate_nb.server.ui_link import ui_link

TCP = Address("http://127.0.0.1:9070")
LAB = {"JPY_SESSION_NAME": "work.ipynb", "JPY_PARENT_PID": "1"}
NO_LINK = [
    (Address("http://localhost", Path("/x/admin.sock")), LAB),  # a Unix socket: no browser reaches it
    (TCP, LAB | {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}),  # a Hub or Binder: the port is of another machine
    (TCP, {"JPY_PARENT_PID": "1"}),  # nbclient: what is stored would be dead when it is read
    (Address("https://restate.example.org:9070"), LAB),  # a cluster, of which we know no page
]


def in_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in ("JPY_SESSION_NAME", "JPY_PARENT_PID", "JUPYTERHUB_SERVICE_PREFIX", "SERVER_SOFTWARE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_the_ui_of_a_server_on_loopback_is_linked_in_a_lab(monkeypatch):
    in_environment(monkeypatch, LAB)
    assert ui_link(TCP) == "http://127.0.0.1:9070/ui/invocations"


@pytest.mark.parametrize(("address", "environment"), NO_LINK)
def test_there_is_no_link_where_the_ui_cannot_be_reached(monkeypatch, address, environment):
    in_environment(monkeypatch, environment)
    assert ui_link(address) == ""


@pytest.mark.parametrize("hub", [True, False])
def test_through_jupyter_server_proxy_the_link_is_a_path_on_the_pages_own_host(monkeypatch, tmp_path, hub):
    prefix = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"} if hub else {}
    in_environment(monkeypatch, LAB | {"JPY_PARENT_PID": "17", "JUPYTER_RUNTIME_DIR": str(tmp_path)} | prefix)
    (tmp_path / "jpserver-17.json").write_text('{"base_url": "/user/ada/", "pid": 17}')
    environment._base_url_of.cache_clear()
    link = ui_link(Address("http://localhost", tmp_path / "admin.sock"), tmp_path)
    assert re.fullmatch("/user/ada/restate-nb/[0-9a-f]{16}/ui/invocations", link)
    assert ui_link(TCP, tmp_path) == link
    assert ui_link(TCP, tmp_path / "other") != link


@pytest.mark.parametrize(
    "environment",
    [
        {"JPY_PARENT_PID": "1"},  # nbclient
        LAB | {"JPY_PARENT_PID": "18"},  # no server of that number
        LAB | {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/", "SERVER_SOFTWARE": "voila/0.5"},  # strangers read the page
    ],
)
def test_there_is_no_path_to_the_ui_where_no_jupyter_server_is(monkeypatch, tmp_path, environment):
    in_environment(monkeypatch, environment | {"JUPYTER_RUNTIME_DIR": str(tmp_path)})
    assert ui_link(Address("http://localhost", tmp_path / "admin.sock"), tmp_path) == ""


def test_there_is_no_path_to_the_ui_without_jupyter_server_proxy(monkeypatch, tmp_path):
    in_environment(monkeypatch, LAB | {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ui_link(Address("http://localhost", tmp_path / "admin.sock"), tmp_path) == ""
