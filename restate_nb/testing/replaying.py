"""What a process does that replays an invocation of another one."""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from typing import Final

from restate_nb.testing.mock import replayed

_AHEAD: Final = 86_400.0 * 17.31


def main() -> None:
    """Replay what is on the standard input, and say after a zero byte what went wrong, if anything did."""
    _set_clock(int(sys.argv[1]) * _AHEAD)
    path, recording = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = path
    sys.stdout.write(f"\0{asyncio.run(replayed(recording))}")


def _set_clock(ahead: float) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + ahead
    time.time_ns = lambda: now_ns() + int(ahead * 1e9)
