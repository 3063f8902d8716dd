"""In JupyterLab the panel of a real job does what it says, by mouse and by keys: slider, pause, resume, cancel, retry.

And the page stays quick while a hundred thousand items run.
"""

from __future__ import annotations

import re
import time

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
    expect(panel.get_by_role("link", name="Open in the Restate UI")).to_have_count(1)  # through jupyter-server-proxy
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


TAB = "() => (document.activeElement.getAttribute('aria-label') || document.activeElement.innerText || '').trim()"


def press_tab_until(notebook, words):
    """Go on with the tab key until the focus is on what has these words."""
    for _ in range(8):
        notebook.page.keyboard.press("Tab")
        if notebook.page.evaluate(TAB) == words:
            return
    raise AssertionError(f"the tab key does not come to {words!r}")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_the_tab_key_comes_to_every_control_and_the_keyboard_works_them(opened, pictures, theme):
    notebook = opened(START, "job = rnb.map(slow, range(5_000), concurrency=10, fresh=True)")
    notebook.theme(theme)
    notebook.run_cell(0)
    notebook.run_cell(1)
    panel, live = notebook.output(1).first, notebook.output(1).nth(1)
    live.get_by_role("slider").focus()
    notebook.page.keyboard.press("PageUp")
    expect(panel).not_to_contain_text("10 at once", timeout=20_000)
    press_tab_until(notebook, "Pause")
    notebook.page.keyboard.press("Enter")
    expect(panel).to_contain_text("Paused", timeout=20_000)
    notebook.outputs(1).screenshot(path=pictures / f"job-focus-{theme}.png")
    notebook.page.keyboard.press("Space")  # the same button, which says "Resume" now
    expect(panel).to_contain_text("Running", timeout=20_000)
    press_tab_until(notebook, "Cancel")
    notebook.page.keyboard.press("Enter")
    notebook.page.keyboard.press("Enter")
    expect(panel).to_contain_text("Cancelled", timeout=20_000)


WATCH = """
() => {
    window.changes = 0;
    const panel = document.querySelectorAll('.jp-CodeCell')[1].querySelector('.jp-OutputArea');
    new MutationObserver(() => { window.changes += 1 }).observe(panel, {childList: true, subtree: true});
}
"""


def test_the_page_answers_while_a_job_of_a_hundred_thousand_items_runs(opened):
    notebook = opened(
        START + "\nasync def quick(n: int) -> int:\n    await asyncio.sleep(0.01)\n    return n",
        "job = rnb.map(quick, range(100_000), concurrency=300)",
        "print(job)",
    )
    notebook.run_cell(0)
    notebook.run_cell(1)
    panel = notebook.output(1).first
    notebook.page.evaluate(WATCH)
    began, waits = time.monotonic(), []
    while "Finished" not in panel.inner_text():
        asked = time.monotonic()
        notebook.page.evaluate("() => new Promise(requestAnimationFrame)")
        waits.append(time.monotonic() - asked)
        time.sleep(0.05)
        assert time.monotonic() - began < 120
    took = time.monotonic() - began
    print(f"{len(waits)} answers, the slowest in {max(waits) * 1000:.0f} ms")
    assert len(waits) >= 5
    assert max(waits) < 5  # a page that is flooded stalls for good
    assert notebook.page.evaluate("window.changes") < 30 * (took + 1)  # a few changes of the page an update
    notebook.run_cell(2)
    expect(notebook.output(2).first).to_contain_text("finished, 100,000 items: 100,000 ok")


def test_the_link_leads_to_the_restate_ui_where_the_browser_can_reach_it(opened, pictures):
    notebook = opened(
        START.replace("rnb.start()", "rnb.start('ui', data_dir='.ui', listen='tcp')"),
        "job = rnb.map(fetch, range(20), name='seen')\njob.result();",
    )
    notebook.run()
    assert notebook.errors() == []
    with notebook.page.expect_popup() as popup:
        notebook.output(1).first.get_by_role("link", name="Open in the Restate UI").click()
    page = popup.value
    expect(page).to_have_title(re.compile("Restate"), timeout=20_000)
    expect(page.get_by_text("Invocations").first).to_be_visible(timeout=20_000)
    page.screenshot(path=pictures / "restate-ui.png")
    page.close()
