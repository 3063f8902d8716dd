"""Proves that a function's digest changes with its code and what the code names, and with nothing else. The content of
data is in test_identity.py."""

from __future__ import annotations

import functools
import itertools
import linecache
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from restate_nb.service.digest import code_digest, code_of, items_digest
from tests.support import defined

_cells = itertools.count()


def cell(source: str, **names: Any) -> dict[str, Any]:
    """Run source as IPython runs a cell: in `__main__`, its text known to `linecache`."""
    source = textwrap.dedent(source)
    file = f"/tmp/ipykernel_1/{next(_cells)}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    return defined(source, file=file, **names)


def digest(source: str, **names: Any) -> str:
    return code_digest(cell(source, **names)["f"])


BASE = """
    FACTOR = 2

    def helper(x):
        return x + 1

    async def f(x, *, y=3):
        return helper(x) * FACTOR + y
"""


@pytest.mark.parametrize(
    "source",
    [
        BASE.replace("return helper", "# a comment\n        return  helper"),
        "\n\n\n" + BASE,
        BASE.replace("y=3", "y = 3"),
        BASE + "\n    OTHER = 5\n",
        BASE.replace("return helper(x) * FACTOR + y", "return (helper(x)\n            * FACTOR + y)"),
    ],
    ids=["comment", "line numbers", "spacing", "an unrelated global", "line breaks"],
)
def test_what_does_not_change_the_result_does_not_change_the_digest(source: str) -> None:
    assert digest(source) == digest(BASE)


@pytest.mark.parametrize(
    "source",
    [
        BASE.replace("+ y", "- y"),
        BASE.replace("x + 1", "x + 2"),
        BASE.replace("FACTOR = 2", "FACTOR = 3"),
        BASE.replace("y=3", "y=4"),
        BASE.replace("async def f", "def f"),
    ],
    ids=["the function", "a helper", "a global", "a default", "sync for async"],
)
def test_what_changes_the_result_changes_the_digest(source: str) -> None:
    assert digest(source) != digest(BASE)


def test_a_closed_over_value_counts() -> None:
    source = """
        def make(n):
            def f(x):
                return x * n
            return f
    """
    make = cell(source)["make"]
    assert code_digest(make(1)) == code_digest(make(1))
    assert code_digest(make(1)) != code_digest(make(2))


def test_a_class_of_the_notebook_counts_and_its_comments_do_not() -> None:
    source = """
        class Model:
            size = 1
            def predict(self, x):
                return x + self.size

        def f(x):
            return Model().predict(x)
    """
    assert digest(source) == digest(source.replace("size = 1", "size = 1  # small"))
    assert digest(source) != digest(source.replace("size = 1", "size = 2"))
    assert digest(source) != digest(source.replace("x + self", "x - self"))


def test_functions_that_call_each_other_end() -> None:
    source = """
        def even(n):
            return n == 0 or odd(n - 1)
        def odd(n):
            return n != 0 and even(n - 1)
        f = even
    """
    assert digest(source) == digest(source)


def test_a_list_that_code_names_counts_by_content() -> None:
    source = "def f(x):\n    seen.append(x)\n"
    assert digest(source, seen=[]) == digest(source, seen=[])
    assert digest(source, seen=[]) != digest(source, seen=[1])


def test_a_tuple_of_simple_values_counts() -> None:
    source = "def f(x):\n    return x in LIMITS\n"
    assert digest(source, LIMITS=(1, "a")) == digest(source, LIMITS=(1, "a"))
    assert digest(source, LIMITS=(1, "a")) != digest(source, LIMITS=(1, "b"))


def test_an_object_counts_by_what_it_holds() -> None:
    source = "def f(x):\n    return client.get(x)\n"
    assert digest(source, client=types.SimpleNamespace(a=1)) == digest(source, client=types.SimpleNamespace(a=1))
    assert digest(source, client=types.SimpleNamespace(a=1)) != digest(source, client=types.SimpleNamespace(a=2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(pow, 2), functools.partial(pow, 3)),
        (lambda x: x + 1, lambda x: x + 2),
        ("a".startswith, "b".startswith),
    ],
    ids=["partial", "lambda", "bound method"],
)
def test_callables_of_all_kinds_are_told_apart(one: Callable[..., Any], other: Callable[..., Any]) -> None:
    assert code_digest(one) != code_digest(other)
    assert code_digest(one) == code_digest(one)


def test_two_equal_lambdas_on_other_lines_are_the_same() -> None:
    one = cell("f = [lambda x: x in {'a', 'b', 'c'}, 1][0]")["f"]
    other = cell("\n\nf = lambda x: x in {'a', 'b', 'c'}")["f"]
    assert code_digest(one) == code_digest(other)


CHANGES = {
    "a decorator of the notebook": (
        """
        import functools
        def twice(fn):
            @functools.wraps(fn)
            def inner(x):
                return fn(x) * 2
            return inner
        @twice
        def f(x):
            return x
        """,
        "* 2",
    ),
    "what a decorator decorates": (
        """
        import functools
        def twice(fn):
            @functools.wraps(fn)
            def inner(x):
                return fn(x) + fn(x)
            return inner
        @twice
        def f(x):
            return x * 2
        """,
        "* 2",
    ),
    "a cached helper": (
        """
        import functools
        @functools.cache
        def helper(x):
            return x * 2
        def f(x):
            return helper(x)
        """,
        "* 2",
    ),
    "a nested function": (
        """
        def f(x):
            def inner():
                return x * 2
            return inner()
        """,
        "* 2",
    ),
    "a lambda in the notebook": ("double = lambda x: x * 2\ndef f(x):\n    return double(x)\n", "* 2"),
    "a lambda in a lambda": ("f = lambda x: (lambda y: y * 2)(x)\n", "* 2"),
    "a default of a lambda": ("f = lambda x, by=2: x * by\n", "by=2"),
    "the type of a field": (
        """
        class Row:
            amount: 'int2'
        def f(x: Row):
            return x
        """,
        "int2",
    ),
    "a method": (
        """
        class Model:
            def predict(self, x):
                return x * 2
        f = Model().predict
        """,
        "* 2",
    ),
    "a method of a base class": (
        """
        class Base:
            def predict(self, x):
                return x * 2
        class Model(Base):
            pass
        f = Model().predict
        """,
        "* 2",
    ),
    "a property": (
        """
        class Model:
            @property
            def factor(self):
                return 1 * 2
        def f(x):
            return x * Model().factor
        """,
        "* 2",
    ),
    "a cached property": (
        """
        import functools
        class Model:
            @functools.cached_property
            def factor(self):
                return 1 * 2
        def f(x):
            return x * Model().factor
        """,
        "* 2",
    ),
    "the class of a global object": (
        """
        class Model:
            def predict(self, x):
                return x * 2
        model = Model()
        def f(x):
            return model.predict(x)
        """,
        "* 2",
    ),
    "a callable object": (
        """
        class Model:
            def __call__(self, x):
                return x * 2
        f = Model()
        """,
        "* 2",
    ),
    "a class named by an annotation": (
        """
        import dataclasses
        @dataclasses.dataclass
        class Row:
            amount: int = 2
        def f(x: list[Row]) -> None:
            return x
        """,
        "= 2",
    ),
    "a class named by an annotation that is text": (
        """
        from __future__ import annotations
        class Row:
            amount: int = 2
        def f(x: list[Row] | None):
            return x
        """,
        "= 2",
    ),
    "a partial with a list": ("import functools\nf = functools.partial(max, [1, 2])\n", ", 2]"),
    "a partial with a dict": ("import functools\nf = functools.partial(print, end={'a': 2})\n", ": 2"),
    "a set among constants": ("f = lambda x: x in {'a', 2}\n", ", 2}"),
    "a frozenset of tuples": ("ALLOWED = frozenset({('a', 2)})\ndef f(x):\n    return x in ALLOWED\n", ", 2)"),
}


def test_functions_whose_code_is_equal_and_whose_annotations_are_not_are_told_apart() -> None:
    first, second = "def f(x: int):\n    return x\n", "def f(x: float):\n    return x\n"
    assert cell(first)["f"].__code__ == cell(second)["f"].__code__
    assert digest(first) != digest(second)
    assert digest(first) == digest(first)
    assert digest(first + second) == digest(second), "the last of one name in a cell"


@pytest.mark.parametrize("where", CHANGES)
def test_a_change_is_seen_wherever_the_notebook_has_the_code(where: str) -> None:
    code, part = CHANGES[where]
    assert part in code
    assert digest(code) == digest("\n\n" + code)
    assert digest(code) != digest(code.replace(part, part.replace("2", "3")))


def test_an_installed_decorator_counts_by_name_and_what_it_decorates_by_content(tmp_path: Path) -> None:
    source = "@decorate\ndef f(x):\n    return x * 2\n"
    library = "import functools\ndef decorate(fn):\n    @functools.wraps(fn)\n    def inner(x):\n        return fn(x)\n"
    library += "    return inner\n"
    upgrade = library.replace("return fn(x)", "result = fn(x); return result")

    def installed(text: str) -> Any:
        file = tmp_path / "site-packages" / f"library{next(_cells)}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        namespace: dict[str, Any] = {"__name__": "library"}
        exec(compile(text, str(file), "exec"), namespace)
        return namespace["decorate"]

    one, upgraded = installed(library), installed(upgrade)
    assert digest(source, decorate=one) == digest(source, decorate=upgraded)
    assert digest(source, decorate=one) != digest(source.replace("2", "3"), decorate=one)
    of_the_users = [cell(text, __name__="library")["decorate"] for text in (library, upgrade)]
    assert digest(source, decorate=of_the_users[0]) != digest(source, decorate=of_the_users[1])


def test_things_that_are_named_twice_are_told_apart_by_which_is_named_again() -> None:
    def g() -> None: ...
    def h() -> int:
        return 1

    def f(*args: Any) -> None: ...

    assert code_digest(functools.partial(f, g, h, g)) != code_digest(functools.partial(f, g, h, h))


def test_a_version_stands_for_the_code() -> None:
    one, other = (lambda: 1), (lambda: 2)
    assert code_of([one], "a") == code_of([other, one], "a")
    assert code_of([one], 1) != code_of([one], 2)
    assert code_of([one], None) == code_digest(one)
    assert code_of([one, other, one], None) != code_of([one, other, other], None)


def test_every_process_finds_the_same_digest(tmp_path: Path) -> None:
    script = tmp_path / "digests.py"
    script.write_text(
        textwrap.dedent(
            """
            import functools
            from restate_nb.values.codec import encode
            from restate_nb.service.digest import code_digest, items_digest
            LIMITS = {"a", "b", "c", "d"}
            def helper(x): return x in {"p", "q", "r"}
            def f(x): return helper(x) or x in LIMITS
            FROZEN = frozenset({("a", 1), ("b", 2), "c"})
            class Model:
                allowed = frozenset({"x", "y", "z"})
                def check(self, x): return x in self.allowed
            def g(x, model=object()): return x in FROZEN or (lambda y: y in {"p", "q", "r"})(x)
            print(code_digest(f), code_digest(lambda x: x in {"a", "b", "c"}), items_digest([1, 2], [b"1", b"22"]),
                  code_digest(functools.partial(f, {"tags": {"a", "b", "c"}})), encode({"a", "b", "c", ("d", 1)}),
                  code_digest(Model().check), code_digest(g))
            """
        )
    )
    found = {
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(found) == 1


def test_items_are_told_apart_by_content_order_and_borders() -> None:
    digests = {
        items_digest(map(len, each), each) for each in ([b"1", b"2"], [b"2", b"1"], [b"12"], [b"1", b"2", b""], [])
    }
    assert len(digests) == 5
