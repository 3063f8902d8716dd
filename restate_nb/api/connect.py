"""`connect`: a session on a Restate that others run."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Final, Literal
from urllib.parse import urlsplit

from restate_nb.engine.loop_thread import LoopThread
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.limits import Seconds
from restate_nb.names import check_session_name, default_shared_name
from restate_nb.server.address import Address
from restate_nb.server.binary import OLDEST
from restate_nb.server.credentials import (
    Token,
    Verify,
    as_secret,
    check_encrypted,
    is_loopback,
    read_bind,
    read_tls,
    read_token,
    read_url,
)
from restate_nb.server.http import Rejected
from restate_nb.server.secret import Secret
from restate_nb.service.endpoint import ListenAddress
from restate_nb.session.cluster import RemoteCluster
from restate_nb.session.current import live_or_new
from restate_nb.session.session import RETENTION, Session
from restate_nb.store.opening import parse_store
from restate_nb.validation import check_retention, seconds

_PATIENCE: Final = 300.0  # seconds: a cluster that is upgraded, or a laptop between two networks
FIRST_ANSWER_SECONDS: Final = 10.0  # seconds


def connect(
    ingress_url: str,
    *,
    admin_url: str | None = None,
    token: Token = None,
    name: str | None = None,
    verify: Verify = True,
    endpoint: str | None = None,
    bind: str | None = None,
    identity_key: str | Literal[False] | None = None,
    patience: Seconds = _PATIENCE,
    retention: timedelta | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Session:
    """Use a Restate that runs already, a cluster or Restate Cloud, or return the session that is connected to it.

    `rnb.invoke` calls what is deployed there. `rnb.map` and its kin need Restate to reach this process, too: that takes
    `admin_url`, `endpoint` and `identity_key`.

    Args:
        ingress_url: where invocations are sent, such as `http://localhost:8080`.
        admin_url: the admin API, such as `http://localhost:9070`. Without it there are no `rnb.jobs()`, no
            introspection and no cancelling in Restate, and Restate cannot be told of this process.
        token: is sent as a bearer token: the text, or a `Path` of a file that holds it. By default it comes from the
            environment, `RESTATE_AUTH_TOKEN`, or the file that `RESTATE_AUTH_TOKEN_FILE` names; "" sends none.
        name: separates the jobs of notebooks; the user's and the notebook's name by default, since a cluster has many
            users. Two processes with one name are one session.
        verify: whether the server's certificate is checked; or a file with the certificates of an authority of your
            own, or an SSLContext.
        endpoint: how Restate reaches this process, such as `http://my-host:9081`: a url that is valid from there.
        bind: where this process listens, as `host:port`; by default at the port of `endpoint`, on loopback if that
            names loopback, else on all interfaces.
        identity_key: the public key, `publickeyv1_...`, with which the server signs its requests: only they are
            answered. False answers everybody who can reach the port, who can then run the functions of your jobs.
        patience: seconds (or a timedelta) that Restate may fail to answer before the jobs that wait for it give up.
            Nothing is lost then: run their cells again.
        retention: how long a job is kept after its end; 30 days by default.
        store: where values and items lie that are too large for Restate: the address of a bucket, such as
            `s3://bucket/prefix`, or a directory. Workers are given the same one. Without it they stay in Restate, and
            none may have more than 16 MiB.

    Raises:
        InvalidInput: an argument does not fit, another session is live, or values cannot be kept where `store` says.
        ServerError: nothing answers there, it is no Restate, it is too old, or it refuses the token.

    Example:
        from pathlib import Path

        import restate_nb as rnb

        def cluster() -> rnb.Session:
            at = "https://restate.example.com"
            return rnb.connect(f"{at}:8080", admin_url=f"{at}:9070", token=Path("~/.restate/token"))
    """
    token = as_secret(token)
    secret = read_token(token)
    ingress = read_url("ingress_url", ingress_url)
    admin = None if admin_url is None else read_url("admin_url", admin_url)
    check_encrypted(secret, [ingress] if admin is None else [ingress, admin])
    tls = read_tls(verify)
    restate = RemoteCluster(
        Address(ingress, tls=tls),
        None if admin is None else Address(admin, tls=tls),
        secret,
        seconds("patience", patience),
        read_listen_address(endpoint, bind, identity_key, has_admin=admin is not None),
    )
    name = default_shared_name() if name is None else check_session_name(name)
    if retention is not None:
        check_retention(retention)
    values = None if store is None else parse_store(store)

    def make() -> Session:
        thread = LoopThread("rnb-connect")
        try:
            thread.run(check(restate))
        finally:
            thread.close()
        return Session(name, restate, retention=RETENTION if retention is None else retention, store=values)

    def differs(live: Session) -> str:
        if live.name != name or live.cluster != restate:
            return f"it is not {name!r} on {ingress_url}"
        if not live.keeps_values_in(values):
            return "it keeps values elsewhere"
        return f"it keeps jobs for {live.retention}" if retention not in (None, live.retention) else ""

    session = live_or_new(make, differs)
    from restate_nb.api.accessor import register_for_polars  # noqa: PLC0415 - as `start` does

    register_for_polars()
    return session


def read_listen_address(
    endpoint: str | None, bind: str | None, identity_key: str | Literal[False] | None, *, has_admin: bool
) -> ListenAddress | None:
    """Where this process is to be reached.

    Raises:
        InvalidInput: something is missing, or does not fit the rest.
    """
    if endpoint is None:
        if bind is not None or identity_key is not None:
            raise InvalidInput("bind= and identity_key= say how this process is reached, which endpoint= asks for.")
        return None
    url = read_url("endpoint", endpoint)
    if not has_admin:
        raise InvalidInput("endpoint= needs admin_url=, too: Restate has to be told where this process is reached.")
    if identity_key is None:
        raise InvalidInput(
            "endpoint= needs identity_key=, too: the public key with which the server signs its requests, so that "
            "nobody else can run the functions of your jobs. A server has one when it is given a private key, with "
            "RESTATE_WORKER__INVOKER__REQUEST_IDENTITY_PRIVATE_KEY_PEM_FILE; it logs the public one when it starts, "
            "and Restate Cloud shows it. identity_key=False answers everybody who can reach the port."
        )
    if identity_key is not False and not identity_key.startswith("publickeyv1_"):
        raise InvalidInput("identity_key= is a public key, whose text begins with 'publickeyv1_', or False.")
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = "127.0.0.1" if is_loopback(parts.hostname or "") else "0.0.0.0"
    if bind is not None:
        host, port = read_bind("bind=", bind)
    return ListenAddress(identity_key or None, host, port, url)


async def check(restate: RemoteCluster) -> None:
    """See that it is Restate, that it lets us in, and that it is new enough.

    Raises:
        ServerError: one of them is not so.
    """
    async with restate.ingress() as ingress:
        try:
            await ingress.services(patience=FIRST_ANSWER_SECONDS)
        except Rejected as error:
            raise ServerError(_refused("ingress_url", restate.at, restate.token, error)) from None
        version = None if await ingress.is_current() else "older than 1.7"
    if (admin := restate.admin()) is not None:
        async with admin:
            try:
                version = await admin.version()
            except Rejected as error:
                assert restate.admin_at is not None
                raise ServerError(_refused("admin_url", restate.admin_at, restate.token, error)) from None
    if version is not None and not _is_new_enough(version):
        raise ServerError(
            f"The server at {restate.at} is restate-server {version[:40]}; restate_nb needs "
            f"{'.'.join(map(str, OLDEST))} or later, whose answers say whether an error comes from the server or from "
            "a handler. Upgrade it."
        )


def _is_new_enough(version: str) -> bool:
    numbers = re.match(r"(\d{1,9})\.(\d{1,9})", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST


def _refused(argument: str, address: Address, token: Secret | None, error: Rejected) -> str:
    if error.status in (401, 403):
        what = "asks for a token: pass token=..." if token is None else "does not accept the token"
        return f"The server at {address} {what} (status {error.status}: {error.reason})."
    usual = "8080" if argument == "ingress_url" else "9070"
    return (
        f"What answers at {argument} {address} is not what it should be (status {error.status}: {error.reason}). "
        f"Restate has it at port {usual} unless told otherwise."
    )
