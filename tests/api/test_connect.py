"""Proves `rnb.connect`: jobs on a Restate that others run, what is missing without its parts, and hidden tokens."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import logging
import pickle
import socket
import ssl
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import restate_nb as rnb
from restate_nb.api import connect as connecting
from restate_nb.api import magics
from restate_nb.patterns import ObjectClient, ServiceClient
from restate_nb.server import http
from restate_nb.server.handle import ServerHandle
from restate_nb.server.lifecycle import start_server
from restate_nb.session.session import Session
from tests.backends import shop
from tests.session.gateway import Gateway, gateway

DOUBLE = ServiceClient[int, int]("Shop", "double")
TOKEN = "tok-3f9a1c-secret"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    """A restate-server on loopback ports, which the tests only connect to, with the shop registered there."""
    with start_server(tmp_path_factory.mktemp("cluster") / ".restate", listen="tcp") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.backends.shop", str(tmp_path_factory.mktemp("shop"))],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            with rnb.connect(handle.ingress.url, admin_url=handle.admin.url, name="setup") as session:
                session.io.run(session.connection.admin.point(shop.NAMES, url))
            yield handle
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def connect(cluster: ServerHandle) -> Iterator[Callable[..., Session]]:
    """Connects to the cluster, or to what stands before it; the session is stopped in the end."""
    made: list[Session] = []

    def connect(ingress_url: str | None = None, **options: Any) -> Session:
        options.setdefault("name", "tests")
        made.append(rnb.connect(ingress_url or cluster.ingress.url, **options))
        return made[-1]

    yield connect
    for session in made:
        session.stop()


@pytest.fixture
def door(cluster: ServerHandle) -> Iterator[Gateway]:
    with gateway(cluster.ingress, token=TOKEN) as made:
        yield made


def test_a_connected_session_tells_its_state_and_its_jobs(
    connect: Callable[..., Session], capsys: pytest.CaptureFixture[str]
) -> None:
    session = connect()
    rnb.invoke(DOUBLE, [1], name="one", session=session, show=False).result(30)
    assert "</b> <span>live</span>" in session._repr_html_()
    assert "one" in session._repr_html_()
    magics.restate("status")
    assert capsys.readouterr().out.splitlines() == [repr(session), "  <Job 'one': finished, 1 item: 1 ok>"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


async def shout(city: str) -> str:
    await asyncio.sleep(0.002)
    if city == "Atlantis":
        raise TimeoutError("no such city")
    return city.upper()


def the_cell(session: Session) -> tuple[pd.DataFrame, list[Any]]:
    """What a notebook does: a job, its frame, its charts."""
    cities = pd.Series(["Bonn", "Atlantis", *(f"City {n}" for n in range(40))], name="city")
    retry = rnb.Retry(max_attempts=2, initial_interval=0.001)
    job = rnb.map(shout, cities, concurrency=5, retry=retry, session=session, show=False)
    frame = job.result(30)
    drawn = [job.timeline(), job.durations(), job.throughput(), job.failures(), *job.overview().ravel()]
    return frame, [
        (axes.get_title().split(" ")[0], axes.get_xlabel().split("\n")[0], axes.get_ylabel()) for axes in drawn
    ]


def test_the_same_cell_local_then_connected_gives_the_same_frame_and_charts(
    cluster: ServerHandle, connect: Callable[..., Session], data_dir: Path
) -> None:
    with Session("local", data_dir) as local:
        here, charts_here = the_cell(local)
    endpoint = f"http://127.0.0.1:{free_port()}"
    session = connect(admin_url=cluster.admin.url, endpoint=endpoint, identity_key=cluster.identity_key)
    there, charts_there = the_cell(session)
    times = ["queued_s", "run_s", "started_at", "finished_at"]
    pd.testing.assert_frame_equal(here.drop(columns=times), there.drop(columns=times))
    assert here.dtypes.equals(there.dtypes)
    assert charts_here == charts_there
    assert len(rnb.jobs(session)) == 1
    with pytest.raises(urllib.error.HTTPError, match="401"):  # the endpoint takes only what its server has signed
        urllib.request.urlopen(f"{endpoint}/invoke/rnb-tests/shard", data=b"")
    session.stop()
    again = connect(admin_url=cluster.admin.url, endpoint=endpoint, identity_key=cluster.identity_key)
    assert the_cell(again)[0].equals(there)


def test_without_an_endpoint_functions_cannot_run_and_deployed_handlers_can(
    cluster: ServerHandle, connect: Callable[..., Session]
) -> None:
    session = connect(admin_url=cluster.admin.url)
    for verb in (
        lambda: rnb.map(str, [1], session=session, show=False),
        lambda: rnb.call(durable, session=session),
        lambda: session.serve(shop.shop),
    ):
        with pytest.raises(rnb.InvalidInput, match=r"(?s)cannot reach this process.*rnb\.invoke.*endpoint="):
            verb()
    assert session.call(shop.double, 4) == 8
    job = rnb.invoke(DOUBLE, range(30), session=session, show=False, name="kept nowhere")
    frame = job.result(30)
    assert frame["status"].value_counts().to_dict() == {"ok": 29, "error": 1} | dict.fromkeys(
        ["pending", "running", "timeout", "cancelled"], 0
    )
    assert frame["invocation_status"].notna().all()
    assert job.retry_failed().result(30)["attempts"].iloc[13] == 2
    session.stop()
    session = connect(admin_url=cluster.admin.url)
    again = rnb.invoke(DOUBLE, range(30), session=session, show=False, name="kept nowhere")
    assert again.result(30)["value"].equals(frame["value"])
    assert again.attached == 30
    other = rnb.invoke(DOUBLE, range(1, 30), session=session, show=False, name="kept nowhere")
    assert other.values  # other inputs under the same name are another job, and none is answered with another's result
    assert other.result(30)["value"].dropna().tolist() == [2 * n for n in range(1, 30) if n != 13]
    with pytest.raises(rnb.InvalidInput, match="Give the job another name="):
        rnb.invoke(DOUBLE, range(30), session=session, show=False, name="kept nowhere", fresh=True)


async def durable(ctx: Any) -> None: ...


def test_connect_without_the_admin_api_says_what_is_missing(
    connect: Callable[..., Session], capsys: pytest.CaptureFixture[str]
) -> None:
    session = connect()
    job = rnb.invoke(DOUBLE, range(5), session=session, show=False, name="no admin")
    frame = job.result(30)
    assert frame["value"].tolist() == [0, 2, 4, 6, 8]
    assert frame["invocation_id"].str.startswith("inv_").all()
    assert frame["invocation_status"].isna().all()
    for asks in (lambda: rnb.jobs(session), job.delete, lambda: rnb.job("nobody", session)):
        with pytest.raises(rnb.InvalidInput, match=r"needs Restate's admin API.*admin_url="):
            asks()
    assert not job.diagnose().reasons
    slow = rnb.invoke(ServiceClient[float, float]("Shop", "nap"), [20.0, 21.0], session=session, show=False)
    slow.cancel()
    assert slow.counts["cancelled"] == 2
    assert "no admin API: calls that Restate has begun go on there" in capsys.readouterr().out
    late = rnb.invoke(ServiceClient[float, float]("Shop", "nap"), [22.0], timeout=0.2, session=session, show=False)
    assert "goes on in Restate" in late.result(10)["error"].iloc[0]
    with pytest.raises(rnb.InvalidInput, match="server processes are not this one's"):
        _ = session.server
    assert session.data_dir is None


def test_one_session_a_process(cluster: ServerHandle, connect: Callable[..., Session]) -> None:
    session = connect(token=TOKEN)
    assert connect(token=TOKEN) is session
    assert rnb.start() is session
    with pytest.raises(rnb.InvalidInput, match="is live"):
        connect(admin_url=cluster.admin.url, token=TOKEN)
    with pytest.raises(rnb.InvalidInput, match="is live"):
        connect(token="another")
    with pytest.raises(rnb.InvalidInput, match=r"connected to .* is live"):
        rnb.start(data_dir="elsewhere")
    assert repr(session) == f"<Session 'tests': live, 0 jobs, connected to {cluster.ingress.url}>"


# ---------------------------------------------------------------- tokens


def test_a_token_comes_from_the_argument_a_file_or_the_environment(
    door: Gateway, connect: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")

    def works(**options: Any) -> None:
        session = connect(door.url, **options)
        assert rnb.invoke(DOUBLE, [1, 2], session=session, show=False).values() == [2, 4]
        session.stop()

    works(token=TOKEN)
    works(token=file)
    monkeypatch.setenv("RESTATE_AUTH_TOKEN_FILE", str(file))
    works()
    monkeypatch.setenv("RESTATE_AUTH_TOKEN", TOKEN)
    works()
    with pytest.raises(rnb.ServerError, match="asks for a token"):
        works(token="")


def test_a_token_is_shown_nowhere(
    door: Gateway, connect: Callable[..., Session], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in representations, logs, errors, or tracebacks with all local variables; and it stays in the process."""
    monkeypatch.setattr(connecting, "FIRST_ANSWER_SECONDS", 0.3)
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def fails(call: Callable[[], Any]) -> None:
        try:
            call()
        except rnb.RestateNbError as error:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            shown.extend([str(error), repr(error), "".join(told.format())])
        else:
            pytest.fail("it did not fail")

    session = connect(door.url, token=TOKEN)
    job = rnb.invoke(DOUBLE, [1], session=session, show=False)
    job.result(10)
    restate = session.cluster
    for thing in (
        session,
        job,
        restate,
        restate.ingress(),
        session.connection.ingress.http,
        vars(session.connection.ingress.http),
    ):
        shown.append(repr(thing))
    for pickled in (restate, session.connection.ingress.http):
        with pytest.raises(TypeError):
            pickle.dumps(pickled)

    async def echo(request: web.Request) -> web.Response:
        given = request.headers["Authorization"]
        return web.json_response({"message": f"who is {given}?"}, status=403)

    async def breaks(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    door.hostile = echo
    fails(lambda: rnb.invoke(DOUBLE, [2], session=session, show=False).values())
    session.stop()
    door.everywhere = True
    fails(lambda: rnb.connect(door.url, token=TOKEN, name="tests"))
    door.hostile = breaks
    fails(lambda: rnb.connect(door.url, token=TOKEN, name="tests"))
    door.hostile = None
    fails(lambda: rnb.connect(door.url, token=f"not-{TOKEN}", name="tests"))
    fails(lambda: rnb.connect(door.url, token=f"{TOKEN} {TOKEN}", name="tests"))
    fails(lambda: rnb.connect("http://restate.example.com", token=TOKEN, name="tests"))
    shown += [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]
    assert len(shown) > 20
    assert [text for text in shown if TOKEN in text] == []
    assert sum("•••" in text for text in shown) >= 2, "the errors were told, and the token in them was not"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ingress_url": "localhost:8080"}, "ingress_url is a url such as"),
        ({"ingress_url": "ftp://host"}, "ingress_url is a url such as"),
        ({"ingress_url": "http://host:port"}, "ingress_url is a url such as"),
        ({"ingress_url": "http://host/?a=b"}, "more after it"),
        ({"ingress_url": None}, "ingress_url is a url such as"),
        ({"admin_url": "x"}, "admin_url is a url such as"),
        ({"ingress_url": "http://restate.example.com", "token": "t"}, "would travel unencrypted"),
        ({"admin_url": "http://10.0.0.7:9070", "token": "t"}, "would travel unencrypted"),
        ({"token": "two words"}, "can be no token"),
        ({"token": "line\nbreak"}, "can be no token"),
        ({"token": Path("/nowhere/token")}, "cannot be read from /nowhere/token"),
        ({"token": Path("/dev/zero")}, "too large to hold a token"),
        ({"verify": "/nowhere/ca.pem"}, "verify='/nowhere/ca.pem' cannot be used"),
        ({"name": "no spaces"}, "session's name"),
        ({"endpoint": "http://127.0.0.1:9081"}, "needs admin_url="),
        ({"endpoint": "http://127.0.0.1:9081", "admin_url": "http://localhost:1"}, "needs identity_key="),
        ({"endpoint": "here", "admin_url": "http://localhost:1", "identity_key": False}, "endpoint is a url"),
        (
            {"endpoint": "http://h:1", "admin_url": "http://localhost:1", "identity_key": "key"},
            "begins with 'publickeyv1_'",
        ),
        (
            {"endpoint": "http://h:1", "admin_url": "http://localhost:1", "identity_key": False, "bind": "9081"},
            "a host and a port",
        ),
        ({"bind": "0.0.0.0:9081"}, "which endpoint= asks for"),
        ({"patience": -1}, "patience must be more than 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_asked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        rnb.connect(**{"ingress_url": "http://localhost:1", "name": "tests", **options})


# ---------------------------------------------------------------- TLS


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for localhost that vouches for itself, and the context of a server that has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


def test_certificates_are_checked_against_the_authority_that_is_given(
    cluster: ServerHandle, connect: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "FIRST_ANSWER_SECONDS", 0.3)
    authority, context = certificate(tmp_path)
    with gateway(cluster.ingress, token=TOKEN, tls=context) as door:
        assert door.url.startswith("https://")
        with pytest.raises(rnb.ServerError, match=r"(?i)certificate"):
            connect(door.url, token=TOKEN)
        for verify in (authority, str(authority), ssl.create_default_context(cafile=authority), False):
            session = connect(door.url, token=TOKEN, verify=verify)
            job = rnb.invoke(DOUBLE, [3], session=session, show=False, name="over TLS")
            assert job.values() == [6]
            session.stop()


# ---------------------------------------------------------------- what is no Restate, or a hostile one


def test_an_address_where_nothing_answers_is_an_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "FIRST_ANSWER_SECONDS", 0.3)
    with pytest.raises(rnb.ServerError, match="did not serve the request within"):
        rnb.connect("http://127.0.0.1:1", name="tests")


def test_the_addresses_of_ingress_and_admin_the_wrong_way_round_are_told(cluster: ServerHandle) -> None:
    with pytest.raises(rnb.ServerError, match=r"is not what it should be.*port 8080"):
        rnb.connect(cluster.admin.url, name="tests")
    with pytest.raises(rnb.ServerError, match=r"is not what it should be.*port 9070"):
        rnb.connect(cluster.ingress.url, admin_url=cluster.ingress.url, name="tests")


def json_of(content: Any, **headers: str) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(content, headers=headers)

    return answer


@pytest.mark.parametrize("content", ["text", [], {}, {"services": 5}, {"services": None}, None])
def test_a_server_that_answers_something_else_is_said_to_be_no_restate(door: Gateway, content: Any) -> None:
    door.everywhere, door.hostile = True, json_of(content)
    with pytest.raises(rnb.ServerError, match="no answer of Restate"):
        rnb.connect(door.url, token=TOKEN, name="tests")


@pytest.mark.parametrize("version", ["1.6.2", "0.9", "x", "", "9" * 5000, 7, None, {"a": 1}])
def test_a_server_that_is_too_old_is_told_with_its_version(cluster: ServerHandle, door: Gateway, version: Any) -> None:
    door.everywhere, door.hostile = True, json_of({"version": version})
    with pytest.raises(rnb.ServerError, match=r"restate_nb needs 1\.7 or later|no answer of Restate"):
        rnb.connect(cluster.ingress.url, admin_url=door.url, token=TOKEN, name="tests")


def test_a_server_that_is_too_old_is_known_without_the_admin_api(door: Gateway) -> None:
    """restate-server 1.6 does not say where an error comes from."""
    door.everywhere, door.hostile = True, json_of({"services": []})
    with pytest.raises(rnb.ServerError, match=r"older than 1\.7; restate_nb needs 1\.7"):
        rnb.connect(door.url, token=TOKEN, name="tests")


async def page(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>Please log in</html>", content_type="text/html")


async def cut_json(_: web.Request) -> web.StreamResponse:
    return web.Response(text='{"a": [1, 2', content_type="application/json")


async def not_utf8(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b'"\xff\xfe"', content_type="application/json")


async def deep(_: web.Request) -> web.StreamResponse:
    return web.Response(text="[" * 200_000 + "]" * 200_000, content_type="application/json")


async def truncated(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"a":')
    assert request.transport is not None
    request.transport.close()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"1" * (1 << 20))


async def bomb(_: web.Request) -> web.StreamResponse:
    response = web.Response(body=b"1" * (8 << 20))
    response.enable_compression(web.ContentCoding.gzip)
    return response


async def dripping(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"1")
        await asyncio.sleep(0.05)


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


def status(code: int) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=code, text="nothing for you", headers={"Location": "http://localhost:1/"})

    return answer


@pytest.mark.parametrize(
    ("hostile", "kind", "says"),
    [
        (page, "BadAnswer", "no JSON: text/html.*Please log in.*proxy or a login page"),
        (cut_json, "BadAnswer", "no JSON"),
        (not_utf8, "BadAnswer", "no JSON"),
        (deep, "BadAnswer", "no JSON"),
        (endless, "BadAnswer", "more than 4 MiB"),
        (bomb, "BadAnswer", "more than 4 MiB"),
        (silent, "ItemTimeout", "longer than timeout=3"),
        (status(302), "Rejected", "status 302"),
        (status(201), "Rejected", "status 201"),
        (status(418), "Rejected", "status 418: nothing for you"),
        (status(500), "Rejected", "status 500"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_hostile_answer_is_that_inputs_error_and_no_more(
    door: Gateway, connect: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, hostile: Any, kind: str, says: str
) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 4 << 20)
    session = connect(door.url, token=TOKEN, patience=1)
    session.connection.item_ingress.http.longest = 4 << 20
    door.hostile = hostile
    frame = rnb.invoke(DOUBLE, [1], session=session, show=False, timeout=3).result(20)
    assert frame["error_type"].tolist() == [kind]
    assert pd.Series(frame["error"]).str.contains(says, regex=True).all(), frame["error"].iloc[0]
    assert TOKEN not in frame["error"].iloc[0]
    door.hostile = None
    assert rnb.invoke(DOUBLE, [1], session=session, show=False, name="after").values() == [2]


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        (truncated, "did not serve the request"),
        (dripping, "did not serve the request"),
        (status(502), "it answers 502"),
        (status(503), "it answers 503"),
        (status(401), "status 401"),
        (status(404), "status 404"),
    ],
    ids=["truncated", "dripping", "502", "503", "401", "404"],
)
def test_trouble_that_is_no_inputs_fault_ends_the_job_which_goes_on_when_it_is_over(
    door: Gateway, connect: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, hostile: Any, says: str
) -> None:
    monkeypatch.setattr(http, "BODY_TIMEOUT", 0.3)
    session = connect(door.url, token=TOKEN, patience=0.6)
    door.hostile = hostile
    name = f"trouble {says} {hostile.__qualname__}"
    job = rnb.invoke(DOUBLE, [1, 2, 3], session=session, show=False, name=name)
    with pytest.raises(rnb.JobError, match=f"could not be followed to its end: .*{says}.*run its cell again"):
        job.result(20)
    door.hostile = None
    again = rnb.invoke(DOUBLE, [1, 2, 3], session=session, show=False, name=name)
    assert again.values() == [2, 4, 6]


def test_a_gateway_that_says_slow_down_is_tried_again_with_the_same_key(
    door: Gateway, connect: Callable[..., Session]
) -> None:
    session, refused = connect(door.url, token=TOKEN), 0

    async def slow_down(request: web.Request) -> web.StreamResponse:
        nonlocal refused
        refused += 1
        if refused == 3:
            door.hostile = None
        return web.Response(status=429, text="slow down")

    door.hostile = slow_down
    retry = rnb.Retry(max_attempts=5, initial_interval=0.01)
    add = ObjectClient[int, int]("Stock", "take")
    job = rnb.invoke(add, [5], key=["gateway"], session=session, show=False, retry=retry)
    assert job.values() == [5]
    assert job.attempts()["status"].tolist() == ["error"] * 3 + ["ok"]
    session.stop()
    session = connect(door.url, token=TOKEN)
    assert rnb.invoke(add, [5], key=["gateway"], session=session, show=False, retry=retry).values() == [5]
