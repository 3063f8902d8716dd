"""What was measured of one peer."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Measured:
    """A peer's seconds by (case, items), one a round; its peak of memory; or why it is left out."""

    peer: str
    packages: dict[str, str] = field(default_factory=dict)
    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    memory: int = 0
    missing: str = ""

    def sizes(self, case: str) -> list[int]:
        return sorted(items for name, items in self.seconds if name == case)

    def rates(self, case: str, items: int | None = None) -> list[float]:
        """Items a second, one a round; by default at the largest size. Empty where the peer has no such case."""
        sizes = self.sizes(case)
        if not sizes:
            return []
        size = sizes[-1] if items is None else items
        return [size / seconds for seconds in self.seconds[case, size]]

    def growth(self) -> float:
        """How many times as long an item takes at the larger size as at the common one."""
        small, large = self.sizes("noop")
        each = zip(self.seconds["noop", small], self.seconds["noop", large], strict=True)
        return statistics.median((b / large) / (a / small) for a, b in each)
