"""`restate-nb worker`: a process that runs jobs of functions which can be imported. It needs no notebook."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Final

from restate_nb.errors import InvalidInput, RestateNbError
from restate_nb.names import check_session_name
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin
from restate_nb.server.credentials import check_encrypted, is_loopback, read_bind, read_token, read_url
from restate_nb.server.http import Rejected
from restate_nb.server.secret import Secret
from restate_nb.service.digest import code_of
from restate_nb.service.endpoint import Endpoint, ListenAddress
from restate_nb.service.job_object import jobs_object
from restate_nb.service.wire import workers_of
from restate_nb.store.base import Store
from restate_nb.store.opening import open_store, parse_store, probe, session_store
from restate_nb.workers.connection_balancing import balance_connections
from restate_nb.workers.served_functions import ServedFunctions
from restate_nb.workers.slot_runner import SlotRunner, slots_object

RETENTION: Final = timedelta(days=30)
_REGISTER_TIMEOUT: Final = 60.0  # seconds that a server may take to come up, and a name to lead to this worker
_REGISTER_RETRY: Final = 1.0  # seconds
_SIGNAL_POLL: Final = 0.2  # seconds, after which a signal is seen at the latest
_NOT_ALLOWED: Final = frozenset({401, 403})  # it does not let us in


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `restate-nb worker`."""
    add = parser.add_argument
    add("serve", nargs="+", metavar="MODULE[:FUNCTION]", help="what may be run: a module's own functions, or one")
    add("--session", required=True, metavar="NAME", help="the session whose jobs it runs: name= of rnb.connect")
    add("--bind", required=True, metavar="HOST:PORT", help="where to listen; workers of one machine may share a port")
    add("--advertise", metavar="URL", help="how Restate reaches it, or all workers behind one address; else the bind")
    add("--admin", metavar="URL", help="Restate's admin API, such as http://localhost:9070, to be registered there")
    add("--no-register", action="store_true", help="leave that to `restate deployments register URL`")
    add("--token-file", metavar="FILE", help="holds the token for the admin API; else see RESTATE_AUTH_TOKEN")
    add("--identity-key", metavar="KEY", help="the server's public key, publickeyv1_...: only it is answered")
    add("--no-identity", action="store_true", help="answer whoever can reach the port, and have the functions run")
    add("--store", metavar="URL", help="where the session keeps large values: store= of rnb.connect or rnb.start")
    add("--drain", type=float, default=30.0, metavar="SECONDS", help="to let items end when it is stopped (default 30)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    session = check_session_name(arguments.session)
    address = _listen_address(arguments)
    admin: str | None = None
    token: Secret | None = None
    if not arguments.no_register:
        if arguments.admin is None:
            raise InvalidInput(
                "--admin is missing: where Restate is told of this worker, such as http://localhost:9070; or "
                "--no-register."
            )
        admin = read_url("--admin", arguments.admin)
        token = read_token(None if arguments.token_file is None else Path(arguments.token_file))
        check_encrypted(token, [admin])
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    served = ServedFunctions.of(arguments.serve)
    store = None if arguments.store is None else _open_store(arguments.store, session)
    stop = threading.Event()

    def request_stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # once more ends it at once
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    balance_connections()
    registry = None if admin is None else (admin, token)
    serving = _serve(session, served, address, registry, store=store, stop=stop, drain=arguments.drain)
    with ThreadPoolExecutor(1) as thread:  # in the main thread the SDK would take SIGTERM for itself
        result = thread.submit(asyncio.run, serving)
        while not wait([result], _SIGNAL_POLL).done:  # a signal that another thread is given does not end a wait
            pass
        return result.result()


def _open_store(address: str, session: str) -> Store:
    """The session's store, in which this worker can write.

    Raises:
        InvalidInput: it cannot.
    """
    store = open_store(session_store(parse_store(address, "--store"), session))
    probe(store)
    return store


def _listen_address(arguments: argparse.Namespace) -> ListenAddress:
    host, port = read_bind("--bind", arguments.bind)
    key = arguments.identity_key
    if (key is None) != arguments.no_identity:
        raise InvalidInput(
            "Give --identity-key, the public key with which the server signs its requests, so that nobody else can "
            "run these functions; or --no-identity, to answer whoever can reach the port. A server has a key when it "
            "is given a private one, with RESTATE_WORKER__INVOKER__REQUEST_IDENTITY_PRIVATE_KEY_PEM_FILE; it logs the "
            "public one when it starts, and Restate Cloud shows it."
        )
    if key is not None and not key.startswith("publickeyv1_"):
        raise InvalidInput("--identity-key is a public key, whose text begins with 'publickeyv1_'.")
    if arguments.advertise is None and not is_loopback(host):
        raise InvalidInput(f"--advertise is missing: how Restate reaches what listens on {host}, as a url.")
    url = None if arguments.advertise is None else read_url("--advertise", arguments.advertise)
    return ListenAddress(key, host, port, url, shared=True)


async def _serve(
    session: str,
    served: ServedFunctions,
    address: ListenAddress,
    admin: tuple[str, Secret | None] | None,
    *,
    store: Store | None,
    stop: threading.Event,
    drain: float,
) -> int:
    runner = SlotRunner(served, store)
    workers = workers_of(session)
    endpoint = Endpoint(address)
    endpoint.serve(slots_object(workers, runner, retention=RETENTION), jobs_object(workers, retention=RETENTION))
    await endpoint.open()
    try:
        if admin is not None:
            await _register(endpoint, *admin, stop)
        for function in served.functions():
            _print_line(f"serves {function.__module__}:{function.__qualname__}, code {code_of([function], None)}")
        where = "not registered" if admin is None else f"registered with {admin[0]}"
        if store is not None:
            _print_line(f"values in {store.config.url}")
        _print_line(f"ready: session {session!r} at {endpoint.url}, {where}")
        await asyncio.to_thread(stop.wait)
        _print_line(f"stopping: items that run have {drain:g} s to end")
        clean = await runner.drain(drain)
        _print_line("stopped" if clean else "stopped: what ran on is run again elsewhere")
    finally:
        runner.close()
        await endpoint.close()
        if store is not None:
            store.close()
    return 0


def _print_line(text: str) -> None:
    """Print a line, if anybody still reads: a worker outlives the pipe that its output went to."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what it still holds goes there when Python ends
        os.close(nowhere)


async def _register(endpoint: Endpoint, url: str, token: Secret | None, stop: threading.Event) -> None:
    """Tell Restate where the worker is. A name or an address of a service may take seconds to lead to it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _REGISTER_TIMEOUT
    async with Admin(Address(url), token=token, patience=_REGISTER_TIMEOUT) as admin:
        while True:
            try:
                deployment = await admin.point(endpoint.service_names, endpoint.url)
                break
            except RestateNbError as error:
                says = (
                    f"{url} could not be told of this worker: {error} Restate has to reach {endpoint.url}; where it "
                    "knows the worker by another address, give that with --advertise."
                )
                again = isinstance(error, Rejected) and error.status not in _NOT_ALLOWED and not stop.is_set()
                if not again or loop.time() >= end:
                    raise InvalidInput(says) from error
                _print_line(f"waiting, up to {_REGISTER_TIMEOUT:g} s: {says}")
                await asyncio.to_thread(stop.wait, _REGISTER_RETRY)
        await admin.resume_stuck(deployment)
