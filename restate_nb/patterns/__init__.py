"""Helpers for Restate handlers: fan out, map, batch, race, and typed clients. They need only restate-sdk."""

from restate_nb.patterns.batch import BatchProcessor, WorkflowTimer
from restate_nb.patterns.clients import ObjectClient, ServiceClient, WorkflowClient
from restate_nb.patterns.compensation import Compensation, CompensationFailed, compensate
from restate_nb.patterns.fan_out import fan_out, fan_out_fail, map_concurrent
from restate_nb.patterns.outcome import FanOutResult, FanOutTuple, OperationFailed, OperationTimeout, Outcome
from restate_nb.patterns.parallel_invoke import parallel_invoke
from restate_nb.patterns.race import first_completed, race, with_timeout
from restate_nb.patterns.run_each import run_each
from restate_nb.patterns.task_group import Handle, OperationGroup, group
from restate_nb.patterns.typed_values import TypedSerde, typed_values

__all__ = [
    "BatchProcessor",
    "Compensation",
    "CompensationFailed",
    "FanOutResult",
    "FanOutTuple",
    "Handle",
    "ObjectClient",
    "OperationFailed",
    "OperationGroup",
    "OperationTimeout",
    "Outcome",
    "ServiceClient",
    "TypedSerde",
    "WorkflowClient",
    "WorkflowTimer",
    "compensate",
    "fan_out",
    "fan_out_fail",
    "first_completed",
    "group",
    "map_concurrent",
    "parallel_invoke",
    "race",
    "run_each",
    "typed_values",
    "with_timeout",
]
