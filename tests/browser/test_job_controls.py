"""In JupyterLab the panel of a real job does what it says: slider, pause, resume, cancel and retry."""

from __future__ import annotations

import re

import pytest

from tests.browser.lab import CHROMIUM

if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import expect

START = """
import asyncio, threading
import restate_nb as rnb

rnb.start()
broken = True

async def fetch(page: int) -> int:
    await asyncio.sleep(0.05)
    if broken and page % 50 == 7:
        raise ConnectionError(f"page {page} is away")
    return page

async def slow(page: int) -> int:
    await asyncio.sleep(0.2)
    return page
"""


def test_the_slider_sets_the_concurrency_and_the_buttons_pause_resume_and_cancel(opened, pictures):
    notebook = opened(
        START, "job = rnb.map(slow, range(5_000), concurrency=10)", "print(job.concurrency)", "print(job)"
    )
    notebook.run_cell(0)
    notebook.run_cell(1)
    panel, live = notebook.output(1).first, notebook.output(1).nth(1)
    expect(panel).to_contain_text("10 at once", timeout=20_000)
    live.get_by_role("slider").focus()
    for _ in range(3):
        notebook.page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("13 at once")
    notebook.run_cell(2)
    expect(notebook.output(2).first).to_have_text("13\n")
    expect(panel).to_contain_text("13 running")
    notebook.outputs(1).screenshot(path=pictures / "job-running.png")

    live.get_by_role("button", name="Pause").click()
    expect(panel).to_contain_text("Paused", timeout=20_000)
    live.get_by_role("button", name="Resume").click()
    expect(panel).to_contain_text("Running", timeout=20_000)

    live.get_by_role("button", name="Cancel").click()
    live.get_by_role("button", name="Click again to cancel").click()
    expect(panel).to_contain_text("Cancelled", timeout=20_000)
    notebook.outputs(1).screenshot(path=pictures / "job-cancelled.png")
    notebook.run_cell(3)
    expect(notebook.output(3).first).to_contain_text(
        re.compile(r"cancelled, 5,000 items: .*[\d,]+ ok, [\d,]+ cancelled")
    )


def test_the_retry_button_runs_the_failed_items_again_with_the_function_as_it_is_now(opened, pictures):
    notebook = opened(
        START,
        "job = rnb.map(fetch, range(200), concurrency=50)\nframe = job.result()",
        "broken = False",
        "frame = job.result()\nprint(job, list(frame['attempts'].value_counts()))",
    )
    notebook.run_cell(0)
    notebook.run_cell(1)
    panel, live = notebook.output(1).first, notebook.output(1).nth(1)
    expect(panel).to_contain_text("Finished, 4 failed")
    expect(panel).to_contain_text("ConnectionError")
    notebook.outputs(1).screenshot(path=pictures / "job-failed.png")
    notebook.run_cell(2)
    live.get_by_role("button", name="Retry failed").click()
    expect(panel).to_contain_text(re.compile("Finished *200 of 200 done"), timeout=20_000)
    expect(live.get_by_role("button")).to_have_count(0)
    notebook.run_cell(3)
    expect(notebook.output(3).first).to_contain_text("finished, 200 items: 200 ok> [196, 4]")
