"""A live kernel, as a person uses it: Ctrl-C in the two ways to wait leaves the job running and the kernel usable, and
after a restart in the middle of a job the same cells attach to it and finish it."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest
from jupyter_client.manager import KernelManager

START = """
import asyncio, os
import restate_nb as rnb

session = rnb.start("kernel")

async def nap(seconds: float) -> float:
    with open("ran.txt", "a") as file:
        file.write(f"{seconds}\\n")
    await asyncio.sleep(seconds)
    return seconds
"""
LIMIT = 60  # generous: only a hang takes as long


class Kernel:
    """A kernel in a folder of its own, and what its cells answer."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self._connect()

    def _connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT)

    def send(self, code):
        return self.client.execute(code)

    def answer(self, asked):
        """The reply to a cell, and what it printed."""
        printed, reply, end = "", None, time.monotonic() + LIMIT
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed += message["content"]["text"]
            if message["content"].get("execution_state") == "idle":
                break
        while reply is None:
            message = self.client.get_shell_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") == asked:
                reply = message["content"]
        return reply, printed

    def run(self, code):
        reply, printed = self.answer(self.send(code))
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        return printed

    def wait_for(self, condition):
        end = time.monotonic() + LIMIT
        while self.run(f"print({condition})") != "True\n":
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def restart(self):
        """What "Restart kernel" does."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self._connect()

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    kernel.run(START)
    yield kernel
    kernel.close()


@contextmanager
def waiting(kernel, code):
    """A cell that waits for a job that lasts; afterwards the job is ended."""
    kernel.run("job = rnb.map(nap, [300.0, 300.0], fresh=True)")
    kernel.wait_for("job.counts['running'] == 2")
    asked = kernel.send(f"print('waiting', flush=True)\n{code}")
    while kernel.client.get_iopub_msg(timeout=LIMIT)["content"].get("text") != "waiting\n":
        pass
    time.sleep(0.3)  # let it come to the line that waits
    yield asked
    kernel.run("job.cancel()")
    assert kernel.run("print(job.status)") == "cancelled\n"


WAITS = [
    "job.result()",
    "job.wait()",
    "job.values()",
    "await job",
    "for row in rnb.as_completed(job): pass",
    "async for row in rnb.as_completed(job): pass",
]


@pytest.mark.parametrize("code", WAITS)
def test_an_interrupt_ends_the_waiting_and_not_the_job_and_says_so(kernel, code):
    with waiting(kernel, code) as asked:
        began = time.monotonic()
        kernel.manager.interrupt_kernel()
        reply, printed = kernel.answer(asked)
        assert time.monotonic() - began < 5  # it takes 0.3 s; who does not get the prompt back restarts the kernel
        assert reply["status"] == "error"
        assert reply["ename"] in {"KeyboardInterrupt", "CancelledError"}
        assert "the job goes on" in printed and "job.result() waits again" in printed
        assert kernel.run("print(job.status, job.counts['running'])") == "running 2\n"


HELD = """
released = []

async def held(number: int) -> int:
    while not released:
        await asyncio.sleep(0.02)
    return number

job = rnb.map(held, [1, 2, 3])
"""


def test_after_an_interrupt_one_can_wait_again_and_gets_the_frame(kernel):
    kernel.run(HELD)
    for code in ("job.result()", "await job"):
        asked = kernel.send(code)
        time.sleep(0.4)
        kernel.manager.interrupt_kernel()
        assert kernel.answer(asked)[0]["status"] == "error"
    kernel.run("released.append(True)")
    assert kernel.run("frame = await job\nprint(list(frame['value']), set(frame['attempts']))") == "[1, 2, 3] {1}\n"


def test_after_a_restart_of_the_kernel_the_same_cells_attach_and_finish(tmp_path):
    kernel = Kernel(tmp_path)
    try:
        kernel.run(START)
        job = "job = rnb.map(nap, [0.1 + n / 10_000 for n in range(120)], name='naps', concurrency=4)"
        kernel.run(job)
        kernel.wait_for("job.counts['ok'] >= 30")
        kernel.restart()
        kernel.run(START)
        kernel.run(job)
        attached = int(kernel.run("print(job.attached)"))
        assert 30 <= attached < 120
        assert kernel.run("frame = job.result()\nprint(set(frame['status']), len(frame))") == "{'ok'} 120\n"
        ran = (tmp_path / "ran.txt").read_text().split()
        assert set(ran) == {str(0.1 + n / 10_000) for n in range(120)}
        assert len(ran) <= 120 + 2 * 4  # what was running, and what had ended without being recorded

        kernel.restart()  # and now that it is finished, run all again: nothing runs
        kernel.run(START)
        kernel.run(job)
        assert kernel.run("frame = job.result()\nprint(job.attached, job.status, len(frame))") == "120 finished 120\n"
        assert len((tmp_path / "ran.txt").read_text().split()) == len(ran)
    finally:
        kernel.close()


INTERRUPTED = """
import signal, threading, time

async def same(n: int) -> int:
    return n

def begin(after):
    return rnb.map(same, range(20_000), name=f"interrupted after {after}", show=False)

def interrupt(after):
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        begin(after)
        time.sleep(5)  # it was quicker: the interrupt comes here
    except KeyboardInterrupt:
        return
    print("no interrupt came")
"""


STOPPED_READING = "Stopped while the items were read, after "
STOPPED = "Stopped while the job was being submitted: run the cell again, and it is made complete.\n"


def test_whoever_interrupts_a_submit_gets_the_prompt_and_is_told_how_to_go_on(kernel):
    kernel.run(INTERRUPTED)
    kernel.run("os.kill(session.server.pid, signal.SIGSTOP)")  # so that the submit takes as long as we like
    asked = kernel.send("begin('a pause')")
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    reply, printed = kernel.answer(asked)
    kernel.run("os.kill(session.server.pid, signal.SIGCONT)")
    assert (reply["ename"], printed) == ("KeyboardInterrupt", STOPPED)
    assert kernel.run("print((begin('a pause').result()['value'] == range(20_000)).all())") == "True\n"


def test_an_interrupted_submit_is_made_good_by_running_the_cell_again(kernel):
    kernel.run(INTERRUPTED)
    for after in (0.004, 0.01, 0.02, 0.03, 0.045, 0.06):
        said = kernel.run(f"interrupt({after})")
        assert said in ("", STOPPED) or said.startswith(STOPPED_READING)
        frame = f"frame = begin({after}).result()"
        assert (
            kernel.run(f"{frame}\nprint((frame['value'] == range(20_000)).all(), set(frame['attempts']))")
            == "True {1}\n"
        )
