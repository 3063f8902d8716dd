"""A base class for `Mapped`, which mypy sees as a coroutine, and pyright as nothing.

By such a base, mypy asks for what the code around wants only after it has looked at the function. Pyright needs none.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

MYPY = False  # mypy reads it as True

if MYPY:

    class MypyBase(Coroutine[Any, Any, Any]):  # pyright: ignore[reportRedeclaration]
        """For mypy."""
else:

    class MypyBase:
        """For everybody else."""
