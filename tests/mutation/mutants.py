"""The mutants of a module: each has one small fault, of a kind that people make."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Div(), ast.Div: ast.Mult(), ast.FloorDiv: ast.Mult(),
    ast.Mod: ast.Mult(), ast.BitOr: ast.BitAnd(), ast.BitAnd: ast.BitOr(),
}  # fmt: skip
OTHER_FUNCTION = {"min": "max", "max": "min", "any": "all", "all": "any"}
PLAIN_TESTS = (ast.Name, ast.Attribute, ast.Call, ast.Await, ast.NamedExpr)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one fault: `before`, at `line`, became `after`."""

    line: int
    before: str
    after: str
    start: int
    """Where `before` starts in the module, in bytes of UTF-8."""

    def source(self, module: bytes) -> bytes:
        """The module with the fault in it."""
        before = self.before.encode()
        assert module[self.start : self.start + len(before)] == before
        return module[: self.start] + self.after.encode() + module[self.start + len(before) :]

    def __str__(self) -> str:
        return f"{self.line}: {' '.join(self.before.split())} -> {' '.join(self.after.split())}"


def mutants(module: str) -> list[Mutant]:
    """All mutants of a module that can be compiled, from top to bottom."""
    raw = module.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, str, str], Mutant] = {}
    for node, after in _faults(ast.parse(module)):
        before = ast.get_source_segment(module, node)
        assert before is not None
        # In brackets, a mutant may not bind otherwise than the node it stands for.
        text = f"({after})" if isinstance(node, ast.expr) else after
        mutant = Mutant(node.lineno, before, text, starts[node.lineno - 1] + node.col_offset)
        try:
            compile(mutant.source(raw), "mutant", "exec")
        except SyntaxError:
            continue
        found.setdefault((mutant.start, before, text), mutant)
    return sorted(found.values(), key=lambda each: each.start)


def _faults(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    if isinstance(node, ast.expr):
        yield from ((node, fault) for fault in _of_expression(node))
    elif isinstance(node, ast.stmt):
        yield from ((node, fault) for fault in _of_statement(node))
    if isinstance(node, (ast.If, ast.While, ast.IfExp)) and isinstance(node.test, PLAIN_TESTS):
        yield node.test, f"not ({ast.unparse(node.test)})"
    for name, field in ast.iter_fields(node):
        if not _is_left_alone(node, name):
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.AST):
                    yield from _faults(child)


def _is_left_alone(node: ast.AST, field: str) -> bool:
    """Types, decorators, messages and what only tells the type checker something: no fault there is a wrong result."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.FunctionDef) and node.name == "__repr__":
        return True
    return field in (
        "annotation",
        "returns",
        "decorator_list",
        "bases",
        "keywords" if isinstance(node, ast.ClassDef) else "",
    )


def _of_expression(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(left, ops, comparators):
            for changed, op in enumerate(ops):
                words = [ast.unparse(left)]
                for position, (each, right) in enumerate(zip(ops, comparators, strict=True)):
                    words.append(COMPARISONS[type(op)] if position == changed else _symbol(each))
                    words.append(f"({ast.unparse(right)})")
                yield " ".join(words)
        case ast.BoolOp(op, values):
            yield (" or " if isinstance(op, ast.And) else " and ").join(f"({ast.unparse(each)})" for each in values)
        case ast.UnaryOp(ast.Not(), operand):
            yield ast.unparse(operand)
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC:
            yield ast.unparse(ast.BinOp(left, ARITHMETIC[type(op)], right))
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int(value) | float(value)):
            yield repr(value + 1)
            if value:
                yield repr(value - 1)
        case ast.Call(ast.Name(name), args, keywords) if name in OTHER_FUNCTION:
            yield ast.unparse(ast.Call(ast.Name(OTHER_FUNCTION[name]), args, keywords))


def _symbol(op: ast.cmpop) -> str:
    return ast.unparse(ast.Compare(ast.Name("a"), [op], [ast.Name("b")]))[2:-2]


def _of_statement(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield "return None"
        case ast.Expr(ast.Call() | ast.Await()) | ast.Raise() | ast.Delete() | ast.Break() | ast.Continue():
            yield "pass"
        case ast.Expr(ast.Yield(value)) if value is not None:
            yield "yield None"
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case ast.AugAssign(target, op, value):
            yield "pass"
            if type(op) in ARITHMETIC:
                yield ast.unparse(ast.AugAssign(target, ARITHMETIC[type(op)], value))
