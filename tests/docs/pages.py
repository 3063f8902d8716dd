"""Pages of documentation as notebooks: their blocks of code run in order, in one namespace and one directory.

What a page may say of its blocks:

- a comment `# -> text` after an expression is what its `repr` must be;
- a block marked `output` after a block is what that one must print, the value of its last expression included; `...`
  stands for anything, and runs of blanks are alike;
- `<!-- setup` ... `-->` is Python that the reader does not see;
- `<!-- file: name -->` before a block makes a file of it instead of running it;
- `<!-- not run: why -->` before a block leaves it out.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"^(?:<!-- setup\n(?P<setup>.*?)^-->|"
    r"(?:<!-- (?P<mark>not run|file): (?P<about>[^\n]*) -->\n+)?^```(?P<language>[a-z]+)\n(?P<code>.*?)^```)$",
    re.MULTILINE | re.DOTALL,
)
_RUN = {"python": "python", "sh": "sh", "output": "output"}
_EXPECTED = re.compile(r"# -> (.*)$")
_CHECKER = doctest.OutputChecker()
_LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of code in a page.

    Attributes:
        kind: what to do with it.
        code: its text.
        line: the line of the page on which it begins, from 1.
        about: the name of the file, or why it is not run.
    """

    kind: Literal["python", "sh", "output", "file", "not run"]
    code: str
    line: int
    about: str = ""


def pages() -> list[Path]:
    """The README and everything in docs/ that has code in it."""
    found = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "_build" not in page.parts and list(blocks(page.read_text()))]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: a block is in a language that is neither run nor marked.
    """
    for match in _BLOCK.finditer(text):
        name = "setup" if match["setup"] is not None else "code"
        line = text.count("\n", 0, match.start(name)) + 1
        if match["setup"] is not None:
            yield Block("python", match["setup"], line)
        elif match["mark"]:
            kind: Any = match["mark"]
            yield Block(kind, match["code"], line, match["about"])
        elif match["language"] in _RUN:
            kind = _RUN[match["language"]]
            yield Block(kind, match["code"], line)
        elif match["language"] not in {"text", "toml", "ini"}:
            raise ValueError(f"line {line}: a block of {match['language']} is neither run nor marked 'not run'.")


class Page:
    """Runs the blocks of one page; a context manager.

    Args:
        path: the page. Its own lines are what tracebacks and `inspect.getsource` show.
        directory: where it runs.
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._directory = directory
        self._module = types.ModuleType("__main__")  # as in a notebook: what a cell defines is pickled by value
        self._runner = asyncio.Runner()

    def __enter__(self) -> Page:
        self._before = Path.cwd(), sys.modules["__main__"]
        os.chdir(self._directory)
        sys.path.insert(0, str(self._directory))
        sys.modules["__main__"] = self._module
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before[0])
        sys.path.remove(str(self._directory))
        sys.modules["__main__"] = self._before[1]
        for name in [each.stem for each in self._directory.glob("*.py")]:
            sys.modules.pop(name, None)
        self._runner.close()

    def run(self) -> int:
        """Run the page; returns how many blocks ran.

        Raises:
            AssertionError: something is not as the page says.
        """
        ran, said = 0, ""
        for block in blocks(self._path.read_text()):
            if block.kind == "output":
                same = _CHECKER.check_output(block.code, said, _LOOSE)
                assert same, f"{self._path}:{block.line}: the page says\n{block.code}\nand it is\n{said}"
            elif block.kind == "file":
                (self._directory / block.about).write_text(block.code)
            elif block.kind == "sh":
                said, ran = self._shell(block), ran + 1
            elif block.kind == "python":
                said, ran = self._python(block), ran + 1
        return ran

    def _shell(self, block: Block) -> str:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-e", "-c", block.code], check=False, capture_output=True, text=True, env=environment, timeout=60
        )
        where = f"{self._path}:{block.line}"
        assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _python(self, block: Block) -> str:
        tree = ast.parse(block.code)
        lines = block.code.splitlines()
        ast.increment_lineno(tree, block.line - 1)
        value = None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            for statement in tree.body:
                value = self._step(statement)
                assert statement.end_lineno is not None
                line = statement.end_lineno - block.line
                if expected := _EXPECTED.search(lines[line]):
                    where = f"{self._path}:{statement.end_lineno}"
                    assert isinstance(statement, ast.Expr), f"{where}: only an expression has a value"
                    same = _CHECKER.check_output(expected[1] + "\n", f"{value!r}\n", _LOOSE)
                    assert same, f"{where}: the page says {expected[1]}, and it is {value!r}"
            if value is not None and not lines[-1].endswith(";"):
                print(value if isinstance(value, str) and "\n" in value else repr(value))
        return printed.getvalue()

    def _step(self, statement: ast.stmt) -> Any:
        """Run one statement; of an expression, its value."""
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        names = vars(self._module)
        tree: Any = ast.Expression(statement.value) if isinstance(statement, ast.Expr) else ast.Module([statement], [])
        mode = "eval" if isinstance(statement, ast.Expr) else "exec"
        code = compile(tree, str(self._path), mode, flags=flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            return self._runner.run(_awaited(code, names))
        return builtins.eval(code, names)


async def _awaited(code: types.CodeType, names: dict[str, Any]) -> Any:
    return await builtins.eval(code, names)
