"""The verbs of the notebook: `map`, `starmap`, `batch` and `fan_out` begin jobs, `call` runs a function once."""

from __future__ import annotations

from restate_nb.notebook.verbs.in_batches import batch
from restate_nb.notebook.verbs.once import call
from restate_nb.notebook.verbs.over_items import map, starmap
from restate_nb.notebook.verbs.side_by_side import fan_out

__all__ = ["batch", "call", "fan_out", "map", "starmap"]
