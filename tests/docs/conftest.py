"""What the tests of documentation share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import restate_nb.session.current


@pytest.fixture
def no_session_left() -> Iterator[None]:
    """Ends the session that a page began, as closing its notebook would."""
    yield
    session = restate_nb.session.current.live_session
    if session is not None:
        session.stop()
