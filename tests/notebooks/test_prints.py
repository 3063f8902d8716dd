"""Where what items print is shown, in a live kernel: under the cell of their own job, whichever cell runs, after it has
ended, from coroutines, threads and worker processes; and a million lines are a few messages."""

from __future__ import annotations

import queue
import time
from collections import defaultdict

import pytest

from tests.notebooks.test_kernel import Kernel

LIMIT = 120  # generous: only a hang takes as long
START = """
import asyncio, logging, sys, time
logging.basicConfig(format="%(message)s")
import restate_nb as rnb
session = rnb.start("prints")

async def coroutine(item):
    print("coroutine", item)
    await asyncio.sleep(0.7)
    logging.warning("coroutine logs %s", item)

def thread(item):
    print("thread", item)
    time.sleep(0.7)
    logging.warning("thread logs %s", item)

def process(item):
    print("process", item)
    time.sleep(0.7)
    print("process tells", item, file=sys.stderr)

async def durable(ctx, item):
    print("durable", item)
    await ctx.run_typed("step", lambda: print("durable step", item))
"""
PRINTED = {
    "coroutine": {"coroutine 1", "coroutine 2", "coroutine logs 1", "coroutine logs 2"},
    "thread": {"thread 1", "thread 2", "thread logs 1", "thread logs 2"},
    "process": {"process 1", "process 2", "process tells 1", "process tells 2"},
    "durable": {"durable 1", "durable 2", "durable step 1", "durable step 2"},
    "other": {"the other cell"},
    "last": {"the last cell"},
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    kernel.run(START)
    yield kernel
    kernel.close()


class Page:
    """What each cell shows."""

    def __init__(self, kernel):
        self.kernel, self.cells, self.text, self.messages = kernel, {}, defaultdict(str), 0

    def send(self, name, code):
        self.cells[self.kernel.send(code)] = name

    def read_until(self, done):
        end = time.monotonic() + LIMIT
        while not done():
            assert time.monotonic() < end, dict(self.text)
            try:
                message = self.kernel.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["msg_type"] == "stream":
                self.messages += 1
                self.text[self.cells[message["parent_header"]["msg_id"]]] += message["content"]["text"]
            assert message["msg_type"] != "error", message["content"]


def test_items_of_jobs_that_run_side_by_side_print_under_their_own_cells(kernel):
    page = Page(kernel)
    for name in ("coroutine", "thread", "process", "durable"):
        page.send(name, f"{name}s = rnb.map({name}, [1, 2], show=False)")
    page.send("other", "time.sleep(0.3); print('the other cell')")
    page.send("last", "for job in (coroutines, threads, processs, durables): job.result()\nprint('the last cell')")
    page.read_until(lambda: all(set(page.text[name].splitlines()) == printed for name, printed in PRINTED.items()))
    page.send("kept", "print(len(coroutines.logs()), len(threads.logs()), len(processs.logs()), len(durables.logs()))")
    page.read_until(lambda: page.text["kept"])
    assert page.text["kept"] == "4 4 4 4\n"


def test_a_million_lines_are_a_few_messages_and_the_last_are_kept(kernel):
    page = Page(kernel)
    page.send(
        "many",
        """
async def many(item):
    for number in range(100_000):
        print("line", item, number)
job = rnb.map(many, range(10), show=False)
frame = job.result()
""",
    )
    page.send("kept", "print(len(job.logs()), job.logs()['text'].iloc[-1])")
    page.read_until(lambda: page.text["kept"])
    assert page.text["kept"] == "50000 line 9 99999\n"
    assert page.text["many"].count("line") < 1_010
    assert "job.logs() has the last 50,000 lines" in page.text["many"]
    assert page.messages < 50
