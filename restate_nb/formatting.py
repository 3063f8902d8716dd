"""Numbers and times as people read them: "1,234", "3.4 ms", "2 min 05 s", "38/s"."""

from __future__ import annotations

import math

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def count(n: int) -> str:
    """A count with its thousands set apart.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return f"{n:,}"


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A count and its noun.

    Example:
        >>> counted(1, "item"), counted(2000, "item"), counted(2, "retry", "retries")
        ('1 item', '2,000 items', '2 retries')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def two_digits(value: float) -> str:
    """A positive number with as many digits as one takes in: two, and all of those before the point.

    Example:
        >>> two_digits(3.449), two_digits(9.96), two_digits(38.2), two_digits(8910.4), two_digits(2.0)
        ('3.4', '10', '38', '8,910', '2')
    """
    if round(value, 1) >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0")


def duration(seconds: float) -> str:
    """A duration given in seconds.

    Example:
        >>> duration(0.00002), duration(0.0034), duration(1.25), duration(125), duration(3780), duration(187200)
        ('20 µs', '3.4 ms', '1.2 s', '2 min 05 s', '1 h 03 min', '2 d 04 h')
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds <= 0:
        return "0 s"
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        # The limit is put on the rounded number: 999.7 ms reads "1 s", never "1,000 ms".
        if round(seconds * factor) < 1000:
            return f"{two_digits(seconds * factor)} {unit}"
    if round(seconds) < 60:
        return f"{two_digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24:,} d {hours % 24:02d} h"


def rate(per_second: float) -> str:
    """A rate given in items per second, in the unit that leaves a number to read.

    Example:
        >>> rate(8910.4), rate(3.82), rate(0.25), rate(0.005)
        ('8,910/s', '3.8/s', '15/min', '18/h')
    """
    for factor, unit in ((1, "s"), (60, "min")):
        if round(per_second * factor, 1) >= 1:
            return f"{two_digits(per_second * factor)}/{unit}"
    return f"{two_digits(per_second * 3600)}/h"


def one_line(text: str, limit: int = 160) -> str:
    """Foreign text made safe to show: one line, nothing that steers a terminal, not too long.

    Args:
        text: a name or an error's message; it may hold anything.
        limit: the longest result, in characters.

    Example:
        >>> one_line("boom\\n  at \\x1b[31mline 3", 16)
        'boom at [31mlin…'
    """
    # A message may be megabytes long: cut before looking at each character.
    words = text[: 8 * limit].split()
    line = "".join(c for c in " ".join(words) if c.isprintable())
    return line if len(line) <= limit and len(text) <= 8 * limit else line[: limit - 1].rstrip() + ELLIPSIS


def short_repr(value: object, limit: int = 80) -> str:
    """A value as Python writes it, for a message, on one line; its type where its `__repr__` raises.

    Args:
        value: anything.
        limit: the longest result, in characters.

    Example:
        >>> short_repr(list(range(100)), 20)
        '[0, 1, 2, 3, 4, 5...'
    """
    try:
        text = repr(value)
    except Exception:  # whatever it raises
        return f"<{type(value).__name__}>"
    if "\n" in text:  # tables and arrays
        text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def size(bytes_: int) -> str:
    """A number of bytes.

    Example:
        >>> size(512), size(100_000), size(2_400_000), size(3_000_000_000)
        ('512 bytes', '100 kB', '2.4 MB', '3 GB')
    """
    if bytes_ < 1000:
        return "1 byte" if bytes_ == 1 else f"{bytes_} bytes"
    value = bytes_ / 1000
    for unit in ("kB", "MB"):
        if value < 999.5:
            return f"{two_digits(value)} {unit}"
        value /= 1000
    return f"{two_digits(value)} GB"
