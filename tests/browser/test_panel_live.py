"""The panel in JupyterLab, as a person sees and uses it."""

from __future__ import annotations

import re

import nbformat
import pytest

from tests.browser.lab import CHROMIUM

if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import expect

START = "from tests.browser.played import Played\njob = Played(total={total}, attached={attached}, concurrency={n})"
ASK = "print(job.calls)"


def start(total=1000, attached=0, n=20):
    return START.format(total=total, attached=attached, n=n)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_a_job_runs_to_its_end(opened, pictures, theme):
    notebook = opened(start(total=1500, attached=940) + "\njob.wait()")
    notebook.theme(theme)
    notebook.run(wait=False)
    panel = notebook.output(0).first
    expect(panel).to_contain_text("Running", timeout=20_000)
    expect(panel).to_contain_text("attached: 940 of 1,500 were already done")
    expect(panel).to_contain_text("429 Too Many Requests <b>retry later</b>")
    expect(notebook.output(0).nth(1).get_by_role("slider")).to_be_visible()
    notebook.outputs(0).screenshot(path=pictures / f"panel-running-{theme}.png")
    expect(panel).to_contain_text("Finished, 14 failed")
    bar = panel.get_by_role("progressbar")
    assert (bar.get_attribute("aria-valuenow"), bar.get_attribute("aria-valuemax")) == ("1500", "1500")
    widths = bar.evaluate("bar => [...bar.children].map(part => part.getBoundingClientRect().width)")
    assert sum(widths) == pytest.approx(bar.bounding_box()["width"], abs=1)
    notebook.outputs(0).screenshot(path=pictures / f"panel-done-{theme}.png")
    assert contrast(panel) > 4.5


CONTRAST = r"""
panel => {
    const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = colour => {
        const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map(channel);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = node => getComputedStyle(node).backgroundColor;
    let behind = panel;
    while (/rgba\(.*, 0\)|transparent/.test(ground(behind))) behind = behind.parentElement;
    const text = light(getComputedStyle(panel.querySelector("b")).color), page = light(ground(behind));
    return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
}
"""


def contrast(panel):
    """The contrast of the panel's text with what is behind it, as WCAG counts it."""
    return panel.evaluate(CONTRAST)


def test_buttons_and_slider_drive_the_job(opened, pictures):
    notebook = opened(start(total=4000))
    notebook.run()
    panel, live = notebook.output(0).first, notebook.output(0).nth(1)
    live.get_by_role("button", name="Pause").click()
    expect(panel).to_contain_text("Paused")
    live.get_by_role("button", name="Resume").click()
    expect(panel).to_contain_text("Running")
    live.get_by_role("slider").focus()
    notebook.page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("21 at once")
    live.get_by_role("button", name="Cancel").click()
    expect(panel).to_contain_text("Running")
    live.get_by_role("button", name="Click again to cancel").click()
    expect(panel).to_contain_text("Cancelled")
    expect(live.get_by_role("button", name="Retry failed")).to_be_visible()
    live.screenshot(path=pictures / "panel-retry.png")
    live.get_by_role("button", name="Retry failed").click()
    expect(panel).to_contain_text("Running")
    expect(live.get_by_role("slider")).to_be_visible()


def test_what_was_clicked_is_what_was_called(opened):
    notebook = opened(start(total=100_000), "import time; time.sleep(1.5)", ASK)
    notebook.run()
    live = notebook.output(0).nth(1)
    live.get_by_role("button", name="Pause").click()
    live.get_by_role("button", name="Resume").click()
    live.get_by_role("button", name="Cancel").click()
    live.get_by_role("button", name="Click again to cancel").click()
    expect(notebook.output(0).first).to_contain_text("Cancelled")
    notebook.page.evaluate(
        """async () => { const n = jupyterapp.shell.currentWidget.content; n.activeCellIndex = 2; n.deselectAll();
            await jupyterapp.commands.execute('notebook:run-cell') }"""
    )
    expect(notebook.output(2).first).to_contain_text("['pause', 'resume', 'cancel']")


def test_a_saved_notebook_holds_no_widget(opened):
    notebook = opened(
        "from restate_nb.panel import widgets; widgets.RETRY_SECONDS = 0.5\n" + start(n=100), "job.wait()"
    )
    notebook.run()
    expect(notebook.output(0).first).to_contain_text("Finished")
    notebook.page.wait_for_timeout(1000)
    outputs = notebook.save().cells[0].outputs
    assert [set(output["data"]) for output in outputs] == [{"text/html", "text/plain"}] * len(outputs)
    assert outputs[0]["data"]["text/plain"].startswith(
        "geocode-customers (locate): Finished, 25 failed, 1,000 of 1,000 done"
    )
    assert "".join(outputs[1]["data"].values()) == ""


def test_an_untrusted_notebook_shows_the_panel_without_its_styles(opened, pictures):
    """JupyterLab strips what it does not trust; what is left must still be read."""
    notebook = opened(start(n=100), "job.wait()")
    notebook.run()
    saved = notebook.save()
    saved.metadata.pop("signature", None)
    copy = notebook.file.with_name(f"untrusted-{notebook.file.name}")
    saved.cells[0].source += "  # changed, so it is not signed"
    nbformat.write(saved, copy)
    other = opened.file(copy)
    panel = other.output(0).first
    expect(panel).to_contain_text(re.compile(r"975 ok.*25 failed"))
    panel.screenshot(path=pictures / "panel-untrusted.png")
