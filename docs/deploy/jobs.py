"""What the workers of these examples run. Put your own functions in its place."""

from __future__ import annotations

import hashlib


def digest(text: str) -> str:
    """What a worker does with one item."""
    return hashlib.sha256(text.encode()).hexdigest()
