"""Renders the notebooks anew: `python -m tests.notebooks.render [PART OF A NAME ...]`.

Each is run from a copy in a temporary folder, and its outputs are written into the repository. Run times and what else
would differ without need are left out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat

from tests.notebooks.execution import NOTEBOOKS, copied, execute, local_names

METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
    "language_info": {"name": "python"},
}


def render(notebook: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = execute(copied(notebook, Path(folder)))
    told = local_names(made)
    if told:
        raise SystemExit(f"{notebook.name} tells local names: {told}")
    made.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate((cell for cell in made.cells if cell.cell_type == "code"), 1):
        cell.metadata.pop("execution", None)
        cell.execution_count = number
    nbformat.write(made, notebook)
    print(f"{notebook.name}: {notebook.stat().st_size / 1024:,.0f} kB")


if __name__ == "__main__":
    for path in NOTEBOOKS:
        if not sys.argv[1:] or any(part in path.name for part in sys.argv[1:]):
            render(path)
