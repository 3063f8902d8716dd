"""Proves that what belongs to others is left as it is, where its version is not known."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import metadata

import hypercorn.protocol
import pytest

from restate_nb import patches


@pytest.fixture(autouse=True)
def versions_are_read_again() -> Iterator[None]:
    patches.is_known.cache_clear()
    yield
    patches.is_known.cache_clear()


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> type:
    plain = hypercorn.protocol.H2Protocol
    monkeypatch.setattr(hypercorn.protocol, "H2Protocol", plain)
    return plain


def test_a_version_that_was_tried_is_changed(before: type) -> None:
    mine = type("Mine", (before,), {})
    patches.use_h2_protocol(mine)
    assert hypercorn.protocol.H2Protocol is mine


@pytest.mark.parametrize("version", ["0.19.0", "1.0", "2026.1b3"])
def test_a_newer_version_is_left_as_it_is_which_is_logged_once(
    before: type, version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    with caplog.at_level(logging.WARNING):
        patches.use_h2_protocol(type("Mine", (before,), {}))
        patches.use_h2_protocol(type("Mine", (before,), {}))
    assert hypercorn.protocol.H2Protocol is before
    (record,) = [each for each in caplog.records if each.name == "restate_nb.patches"]
    assert f"hypercorn {version}" in record.getMessage()


def test_a_library_without_a_record_of_its_version_is_taken_to_be_known(
    before: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    mine = type("Mine", (before,), {})
    patches.use_h2_protocol(mine)
    assert hypercorn.protocol.H2Protocol is mine
