"""Proves that the arrows of docs/development/code-map.md hold: each folder imports only what lies below it, there are
no circles, and the plain modules at the top import no folder. Imports in functions and for types count, too."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from tests.sources import Module, imports, modules

PLAIN = {
    "backpressure", "environment", "errors", "formatting", "limits", "names", "patches", "policy", "tracebacks",
    "validation", "words",
}  # fmt: skip
"""What all may import, and what imports nothing but its like."""

SURFACE = {"", "cli", "demo", "jobs_command", "versions"}
"""The package's own names and programs on them: they may import all, and none of the folders imports them."""

INNER = {"engine", "store", "values"}

BELOW = {
    "api": {
        "session",
        "handle",
        "backends",
        "results",
        "charts",
        "service",
        "server",
        "patterns",
        "engine",
        "store",
        "values",
    },
    "session": {"handle", "backends", "results", "panel", "service", "server"} | INNER,
    "handle": {"backends", "results", "panel", "charts", "service", "server"} | INNER,
    "backends": {"results", "service", "server", "patterns"} | INNER,
    "results": INNER,
    "panel": {"results"},
    "charts": {"results"},
    "workers": {"service", "server"} | INNER,
    "testing": {"patterns", "service", "server"},
    "service": {"patterns"} | INNER,
    "patterns": INNER,
    "server": set(),
    "engine": {"store", "values"},
    "store": {"values"},
    "values": set(),
}
"""Which folders each may import."""

OF_RESULTS = {"panel": {"restate_nb.results.progress"}, "charts": {"restate_nb.results.exports"}}
"""What is drawn is how far a job is, or a frame: no panel or chart knows the rest of `results/`."""

KNOWN = modules()


def may_import(one: Module, other: Module) -> bool:
    if one.folder in SURFACE or one.folder == other.folder:
        return True
    if other.folder in PLAIN:
        return True
    known = OF_RESULTS.get(one.folder)
    if known is not None and other.folder == "results":
        return other.name in known
    return other.folder in BELOW.get(one.folder, set())


def test_every_folder_and_every_module_at_the_top_has_its_place() -> None:
    assert {each.folder for each in KNOWN.values()} <= BELOW.keys() | PLAIN | SURFACE


def test_arrows_point_down_only() -> None:
    up = []
    for module in KNOWN.values():
        for line, name in imports(module, KNOWN):
            if not may_import(module, KNOWN[name]):
                up.append(f"{module.path}:{line} {module.name} -> {name}")
    assert not up, "\n".join(["imports of what lies above, or beside:", *up])


def test_no_module_is_imported_in_a_circle() -> None:
    """The package's own names are left out: they are loaded when they are used."""
    inner = [module for module in KNOWN.values() if module.folder]
    graph = {module.name: {name for _, name in imports(module, KNOWN) if name != "restate_nb"} for module in inner}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None
