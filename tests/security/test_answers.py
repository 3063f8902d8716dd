"""Proves that a bad answer costs no heap of memory and tells no token; and that docs/security.md names real tests."""

from __future__ import annotations

import ast
import asyncio
import re
import resource
import tomllib
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from restate_nb.errors import ServerError
from restate_nb.server import http
from restate_nb.server.address import Address
from restate_nb.server.ingress import Ingress
from restate_nb.server.secret import Secret

ROOT = Path(__file__).parents[2]


async def asked(answer: bytes, token: str | None = None) -> BaseException:
    """The error that comes of an answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with Ingress(address, token=None if token is None else Secret(token)) as ingress:
            with pytest.raises(ServerError) as caught:
                await ingress.services(patience=0)
    return caught.value


def test_a_compressed_bomb_takes_no_heap_of_memory() -> None:
    """2 GiB of zeros in 2 MiB: given up at the first megabytes over the bound."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    bomb = b"".join([packer.compress(zeros) for _ in range(2048)]) + packer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    error = asyncio.run(asked(head + bomb))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert isinstance(error, http.BadAnswer) and "more than 64 MiB" in str(error)
    assert grown < 6 * http.MAX_ANSWER, f"{grown >> 20} MiB"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nbad header with TOKEN\r\n\r\n",
        b"HTTP/1.1 TOKEN\r\n\r\n",
        b"HTTP/1.1 403 X\r\nConnection: close\r\n\r\nTOKEN",
        b"HTTP/1.1 503 X\r\nConnection: close\r\n\r\nTOKEN",
        b"HTTP/1.1 200 OK\r\nContent-Type: TOKEN\r\nConnection: close\r\n\r\nnot json, TOKEN",
        b"HTTP/1.1 200 OK\r\nContent-Length: TOKEN\r\n\r\n",
    ],
)
def test_a_token_in_a_broken_answer_is_not_shown(answer: bytes) -> None:
    error = asyncio.run(asked(answer.replace(b"TOKEN", b"s3cr3t-t0ken"), token="s3cr3t-t0ken"))
    assert "s3cr3t" not in f"{error} {error!r} {error.__cause__!r}"


def test_the_page_on_security_names_existing_tests_only() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    named = set(re.findall(r"`(test_\w+)(?:\[.*?\])?`", page))
    assert len(named) >= 15 and named <= there, named - there
    files = set(re.findall(r"`(test_\w+\.py)`", page))
    assert files and all(list((ROOT / "tests").rglob(name)) for name in files)


def test_every_dependency_has_a_lower_bound() -> None:
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert re.match(r"[a-z0-9-]+>=\d", each), each
