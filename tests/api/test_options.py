"""Proves that the options of a verb are the same wherever they are looked up: signature, tab key, types, docstring."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import jedi
import pandas as pd
import pytest

import restate_nb as rnb
import restate_nb.api.accessor
from restate_nb.api.options import FunctionOptions, InvokeOptions, MapOptions

VERBS: dict[str, tuple[Callable[..., Any], Any]] = {
    "map": (rnb.map, MapOptions),
    "starmap": (rnb.starmap, MapOptions),
    "batch": (rnb.batch, FunctionOptions),
    "fan_out": (rnb.fan_out, FunctionOptions),
    "invoke": (rnb.invoke, InvokeOptions),
}


def options_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The options of its signature, and their types."""
    types = typing.get_type_hints(inspect.unwrap(fn))
    parameters = inspect.signature(fn).parameters.values()
    return {each.name: types[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}


@pytest.mark.parametrize("verb", VERBS)
def test_the_types_of_a_verb_are_those_of_its_signature(verb: str) -> None:
    """Type checkers see the overloads, which unpack a TypedDict; all else sees the signature."""
    fn, options = VERBS[verb]
    shown = options_of(fn)
    own = {"batch_size": int, "pause": shown["pause"]} if verb == "batch" else {}
    assert shown == typing.get_type_hints(options) | own
    for each in typing.get_overloads(fn):
        unpacked = list(inspect.signature(each).parameters.values())[-1]
        assert unpacked.annotation == f"Unpack[{options.__name__}]"


@pytest.mark.usefixtures("jedi_ends")
@pytest.mark.parametrize("verb", VERBS)
def test_the_tab_key_offers_the_options_of_a_verb(verb: str) -> None:
    """Before it is loaded, from the source, as jedi reads it."""
    line = f"rnb.{verb}(work, "
    offered = jedi.Script(f"import restate_nb as rnb\n{line}").complete(2, len(line))
    assert {f"{name}=" for name in options_of(VERBS[verb][0])} <= {each.name for each in offered}


def test_the_accessor_of_pandas_shows_the_options_of_map() -> None:
    frame = pd.DataFrame({"city": ["Bonn"]})
    fn, *options = inspect.signature(frame.restate.map).parameters.values()  # type: ignore[operator]
    assert fn.name == "fn"
    assert options == list(inspect.signature(rnb.map).parameters.values())[2:]


def test_an_unknown_option_is_refused() -> None:
    for fn, _ in VERBS.values():
        with pytest.raises(TypeError, match="no option 'nme'"):
            fn(len, ["a"], nme="typo")
    with pytest.raises(TypeError, match="no option 'nme'"):
        pd.Series(["a"]).restate.map(len, nme="typo")  # type: ignore[operator]
