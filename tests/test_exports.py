"""Proves that every way of looking finds the same public names, and that each is documented."""

from __future__ import annotations

import importlib
import inspect

import pytest

import restate_nb
import restate_nb.patterns
import restate_nb.testing


def test_the_names_are_sorted_and_all_there() -> None:
    names = restate_nb.__all__
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(restate_nb, name) is not None


def test_dir_shows_the_public_names_and_no_other() -> None:
    assert {name for name in dir(restate_nb) if not name.startswith("_")} == set(restate_nb.__all__)


def test_a_type_checker_sees_what_is_there_at_run_time() -> None:
    source = inspect.getsource(restate_nb)
    for name in restate_nb.__all__:
        home = restate_nb._HOME_OF[name]
        assert f"from restate_nb.{home} import" in source
        assert getattr(importlib.import_module(f"restate_nb.{home}"), name) is getattr(restate_nb, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'restate_nb' has no attribute 'mapp'"):
        restate_nb.mapp  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("module", [restate_nb, restate_nb.patterns, restate_nb.testing])
def test_every_public_name_is_documented(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        thing = getattr(module, name)
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and callable(value):
                    assert inspect.getdoc(value), f"{name}.{member}"
