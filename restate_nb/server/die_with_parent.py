"""Run a command that ends when its parent does: `die_with_parent.py COMMAND...`, with a pipe as standard input.

The pipe's other end is the parent's. It closes when the parent is killed, and then the command's whole process group is
killed. Without this an installation would go on, unlocked, after the death of the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main() -> None:
    """Run the command and pass on its exit code."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)

    def watch() -> None:
        while os.read(0, 1):
            pass
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)  # the thread still reads; do not wait for it


if __name__ == "__main__":
    main()
