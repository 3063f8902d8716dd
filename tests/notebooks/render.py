"""Renders the notebooks anew: `python -m tests.notebooks.render [PART OF A NAME ...]`.

Each is run from a copy in a temporary folder, and its outputs are written into the repository. Run times and what else
would differ without need are left out, and pictures are made smaller.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

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
        reduce_pictures(cell)
    nbformat.write(made, notebook)
    print(f"{notebook.name}: {notebook.stat().st_size / 1024:,.0f} kB")


def reduce_pictures(cell: NotebookNode) -> None:
    """A palette of 256 colours: a third of the bytes, and no difference to the eye."""
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as picture:
                few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small = io.BytesIO()
            few.save(small, "png", optimize=True)
            output.data["image/png"] = base64.b64encode(small.getvalue()).decode()


if __name__ == "__main__":
    for path in NOTEBOOKS:
        if not sys.argv[1:] or any(part in path.name for part in sys.argv[1:]):
            render(path)
