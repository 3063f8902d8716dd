"""Helpers for Restate handlers: fan out, map, batch, race, and typed clients. They need only restate-sdk."""

from restate_nb.patterns.choose import first_completed, race, with_timeout
from restate_nb.patterns.fan_out import fan_out, fan_out_fail, map_concurrent
from restate_nb.patterns.outcome import FanOutResult, FanOutTuple, OperationFailed, OperationTimeout, Outcome

__all__ = [
    "FanOutResult",
    "FanOutTuple",
    "OperationFailed",
    "OperationTimeout",
    "Outcome",
    "fan_out",
    "fan_out_fail",
    "first_completed",
    "map_concurrent",
    "race",
    "with_timeout",
]
