"""Types and functions that tests import, as a user's module has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    text: str
    length: int


def ask(text: str) -> Answer:
    return Answer(text, len(text))
