"""Proves what inputs of deployed handlers become: JSON that other languages read, or a refusal before it is sent."""

from __future__ import annotations

import datetime as dt
import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest

import restate_nb as rnb
from restate_nb.backends.deployed_handler import DeployedHandler
from restate_nb.patterns import ServiceClient


class Order(pydantic.BaseModel):
    sku: str = pydantic.Field(alias="SKU")
    at: dt.date


def deployed() -> DeployedHandler:
    return DeployedHandler(ServiceClient("Shop", "place"))


@pytest.mark.parametrize(
    ("item", "body"),
    [
        ({"n": np.int64(3), "xs": np.array([1.5, 2.5])}, {"n": 3, "xs": [1.5, 2.5]}),
        (Order(SKU="ab", at=dt.date(2024, 5, 6)), {"SKU": "ab", "at": "2024-05-06"}),
        (pd.Timestamp("2024-05-06 07:08", tz="UTC"), "2024-05-06T07:08:00+00:00"),
        ([dt.date(2024, 5, 6), dt.datetime(2024, 5, 6, 7)], ["2024-05-06", "2024-05-06T07:00:00"]),
        (pathlib.PurePosixPath("a/b.csv"), "a/b.csv"),
        ({"missing": pd.NA, "time": pd.NaT}, {"missing": None, "time": None}),
    ],
    ids=["numpy", "pydantic", "Timestamp", "dates", "path", "missing"],
)
def test_what_users_have_becomes_plain_json(item: Any, body: Any) -> None:
    assert json.loads(deployed().body(item)) == body


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (float("nan"), "nan has no JSON form; pass None for what is missing"),
        (float("inf"), "inf has no JSON form"),
        ({"a": object()}, "a object has no JSON form; pass plain data"),
    ],
)
def test_what_has_no_json_form_is_refused_with_advice(item: Any, says: str) -> None:
    with pytest.raises(rnb.InvalidInput, match=says):
        deployed().body(item)


def test_nothing_is_no_input() -> None:
    assert deployed().body(None) == b""


def test_a_deployed_handler_has_no_function_to_call_here() -> None:
    with pytest.raises(rnb.InvalidInput, match=r"Shop/place runs where it is deployed"):
        deployed().caller()
    with pytest.raises(rnb.InvalidInput, match=r"Shop/place runs where it is deployed"):
        deployed().fn(1)
