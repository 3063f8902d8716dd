"""The panel in a real kernel: what it stores in the notebook, and how many messages it sends."""

import nbformat
from nbclient import NotebookClient

CELL = """
import time
from restate_nb.notebook.panel import make_panel
from restate_nb.notebook.progress import Progress

panel = make_panel(Progress("pages", "fetch", "submitting", total=10_000))
for i in range(10_000):
    panel.update(Progress("pages", "fetch", "running", total=10_000, ok=i))
time.sleep(0.3)
panel.finish(Progress("pages", "fetch", "finished", total=10_000, ok=9_997, failed=3, elapsed=2.0))
panel.update(Progress("pages", "fetch", "running", total=10_000))
"""


class Counting(NotebookClient):
    """Counts the messages that change outputs."""

    shown = 0

    def process_message(self, msg, cell, cell_index):
        self.shown += msg["msg_type"] in {"display_data", "update_display_data"}
        return super().process_message(msg, cell, cell_index)


def test_a_notebook_keeps_the_last_panel_as_html_and_text():
    cells = [nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell("import time; time.sleep(0.3)")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = Counting(notebook, timeout=60, kernel_name="python3")
    client.execute()
    (output,) = notebook.cells[0].outputs
    assert notebook.cells[1].outputs == []
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert output["data"]["text/plain"] == "pages (fetch): Finished, 3 failed, 10,000 of 10,000 done, in 2 s, 5,000/s"
    assert "10,000 of 10,000 done" in output["data"]["text/html"]
    assert client.shown <= 12
