"""What was measured of a row."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Measured:
    """A row and its pairs.

    Attributes:
        name: of the row; `work`, `peer`, `count` and `wanted` are the row's, too.
        theirs: seconds of the peer, pair by pair.
        ours: seconds from the cell to the frame, pair by pair.
    """

    name: str
    work: str
    peer: str
    count: int
    wanted: float | None
    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Our rate as a share of the peer's, pair by pair."""
        return [theirs / ours for theirs, ours in zip(self.theirs, self.ours, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def their_rate(self) -> float:
        return self.count / statistics.median(self.theirs)

    @property
    def our_rate(self) -> float:
        return self.count / statistics.median(self.ours)
