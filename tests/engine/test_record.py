"""What is kept of an exception tells where in the user's code it was, and nothing of the machine."""

from __future__ import annotations

import linecache

from restate_nb.engine.record import describe


def test_a_cell_is_called_a_cell_and_its_lines_are_shown():
    name, source = "/tmp/ipykernel_4711/99.py", "def find(street):\n    raise LookupError(street)\n"
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    made: dict = {}
    exec(compile(source, name, "exec"), made)
    try:
        made["find"]("Main Street")
    except LookupError as error:
        failure = describe(error)
    assert failure.where == "cell:2 in find"
    assert 'File "cell", line 2, in find\n    raise LookupError(street)' in failure.traceback
    assert "4711" not in failure.traceback
