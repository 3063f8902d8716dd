"""The panel in a real kernel: what it stores in the notebook, and how many messages it sends."""

import asyncio

import nbformat
from nbclient import NotebookClient

CELL = """
import time
from restate_nb.panel import Updater, make_panel
from restate_nb.results.progress import Progress

class Job:
    concurrency = 5
    def cancel(self): ...
    def pause(self): ...
    def resume(self): ...
    def retry_failed(self): ...

job = Job()
now = Progress("pages", "fetch", "submitting", total=10_000)
updater = Updater(lambda: now, make_panel(now, job))
updater.start()
for i in range(10_000):
    now = Progress("pages", "fetch", "running", total=10_000, ok=i)
time.sleep(0.3)
now = Progress("pages", "fetch", "finished", total=10_000, ok=9_997, failed=3, elapsed=2.0)
updater.wake()
updater.join(5.0)
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
    asyncio.run(client.async_execute())
    (output,) = notebook.cells[0].outputs
    assert notebook.cells[1].outputs == []
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert output["data"]["text/plain"] == "pages (fetch): Finished, 3 failed, 10,000 of 10,000 done, in 2 s, 5,000/s"
    assert "10,000 of 10,000 done" in output["data"]["text/html"]
    assert client.shown <= 12


def test_a_panel_is_brought_up_to_date_from_the_cells_that_follow():
    start, end = CELL.split("time.sleep(0.3)")
    cells = [nbformat.v4.new_code_cell(cell) for cell in (start, end)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    asyncio.run(NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute())
    assert "Finished, 3 failed" in notebook.cells[0].outputs[0]["data"]["text/plain"]
    assert notebook.cells[1].outputs == []


CONTROLLED = """
import os, time
os.environ["JPY_SESSION_NAME"] = "somebody looks at this.ipynb"
from dataclasses import replace
from restate_nb.panel import Updater, make_panel, widgets
from restate_nb.results.progress import Progress

widgets.RETRY_STAYS = 0.2

class Job:
    calls = []
    def cancel(self): self.calls.append("cancel")
    def pause(self): self.calls.append("pause")
    def resume(self): self.calls.append("resume")
    def retry_failed(self): raise ValueError("<not> now")
    concurrency = property(lambda self: 5, lambda self, n: self.calls.append(n))

job = Job()
shown = now = Progress("pages", "fetch", "running", total=10, concurrency=5)
panel = make_panel(now, job)
controls = panel.controls
updater = Updater(lambda: shown, panel)
updater.start()

def show(progress):
    global shown
    shown = progress
    time.sleep(0.4)

def finish(progress):
    global shown
    shown = progress
    updater.wake()
    updater.join(5.0)
"""

CLICKS = """
controls._pause.click()
show(replace(now, status="paused"))
words = [controls._pause.description]
controls._pause.click()
show(now)
words.append(controls._pause.description)
controls._slider.value = 7
show(now)
words.append(controls._slider.value)
show(replace(now, concurrency=200))
words.append(controls._slider.value)
controls._cancel.click()
controls._cancel.click()
finish(replace(now, status="cancelled", ok=3, cancelled=7))
offered = [child.description for child in controls._row.children if hasattr(child, "icon")]
controls._retry.click()
print(job.calls, words, offered, controls._said.value, controls._retry.disabled)
time.sleep(0.5)
"""


def test_controls_do_what_the_job_offers_and_leave_nothing_in_the_saved_notebook():
    cells = [nbformat.v4.new_code_cell(cell) for cell in (CONTROLLED, CLICKS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    asyncio.run(NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute())
    assert notebook.cells[1].outputs[0]["text"].strip() == (
        "['pause', 'resume', 7, 'cancel'] ['Resume', 'Pause', 7, 200] ['Retry failed'] "
        + "ValueError: &lt;not&gt; now False"
    )
    panel, controls = notebook.cells[0].outputs
    assert panel["data"]["text/plain"].startswith("pages (fetch): Cancelled, 3 of 10 done, 7 cancelled")
    assert controls["data"] == {"text/html": "", "text/plain": ""}


def test_a_panel_goes_on_in_its_place_when_the_job_does():
    code = CONTROLLED + (
        "finish(replace(now, status='finished', ok=9, failed=1))\n"
        "shown = replace(now, ok=9, running=1)\n"
        "updater.start()\n"
        "show(shown)\n"
        "names = [type(child).__name__ for child in controls._row.children]\n"
        "finish(replace(now, status='finished', ok=10))\n"
        "print(names)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    asyncio.run(NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute())
    panel, controls, printed = notebook.cells[0].outputs
    assert printed["text"].strip() == "['IntSlider', 'Button', 'Button', 'HTML']"
    assert panel["data"]["text/plain"].startswith("pages (fetch): Finished, 10 of 10 done")
    assert controls["data"] == {"text/html": "", "text/plain": ""}


def test_nobody_gets_buttons_where_nobody_can_click():
    code = CONTROLLED.replace('os.environ["JPY_SESSION_NAME"] =', "nobody =")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    asyncio.run(NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute())
    assert len(notebook.cells[0].outputs) == 1
