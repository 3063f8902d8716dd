"""A job's progress as static HTML and as text: what a saved notebook keeps.

Everything is styled inline, since viewers of saved notebooks strip style sheets, scripts and SVG. The text takes the
colour of whatever surrounds it, and what is dimmed is dimmed by opacity, so that any theme, light or dark, known to us
or not, stays readable. A colour never says something alone: each has its sign and its word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from restate_nb.formatting import count, counted, duration, one_line, rate
from restate_nb.results.progress import Progress

ERRORS_SHOWN = 4

# Okabe and Ito's colours, which the colour-blind tell apart; each is clear on white and on black.
_BLUE, _VERMILLION, _SKY, _GREY = "#0072b2", "#d55e00", "#56b4e9", "#8c8c8c"
_TRACK = "rgba(128,128,128,0.22)"


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the bar."""

    word: str
    sign: str
    items: int
    percent: float
    background: str
    colour: str


def _stripes(colour: str, gap: str, degrees: int) -> str:
    """A hatch; viewers that drop gradients keep the plain colour."""
    return (
        f"background-color:{colour};background-image:"
        f"repeating-linear-gradient({degrees}deg,{gap} 0 2px,transparent 2px 6px)"
    )


def segments(progress: Progress) -> list[Segment]:
    """The bar's stretches from left to right; their percentages add up to 100 unless there are no items.

    A stretch of a few items among a million still gets a visible sliver, taken from the widest stretch.
    """
    looks = (
        ("ok", "\N{BLACK SQUARE}", progress.ok, f"background-color:{_BLUE}", _BLUE),
        ("failed", "\N{MULTIPLICATION X}", progress.failed, _stripes(_VERMILLION, "#fff8", 45), _VERMILLION),
        ("cancelled", "\N{EN DASH}", progress.cancelled, _stripes(_GREY, "#fff8", 90), _GREY),
        ("running", "\N{BLACK RIGHT-POINTING TRIANGLE}", progress.running, _stripes(_SKY, "#0003", -45), _SKY),
        ("waiting", "\N{WHITE CIRCLE}", progress.waiting, "", "inherit"),
    )
    present = [look for look in looks if look[2] > 0]
    if not present:
        return []
    shares = _shares([look[2] for look in present])
    return [
        Segment(word, sign, items, percent, background, colour)
        for (word, sign, items, background, colour), percent in zip(present, shares, strict=True)
    ]


def _shares(counts: Sequence[int], least: int = 60) -> list[float]:
    """Percentages of positive counts, in whole hundredths: none under 0.6, together exactly 100."""
    total = sum(counts)
    hundredths = [max(least, 10_000 * n // total) for n in counts]
    widest = hundredths.index(max(hundredths))
    hundredths[widest] += 10_000 - sum(hundredths)
    return [h / 100 for h in hundredths]


def state(progress: Progress) -> str:
    """The job's state in words, such as "Finished, 28 failed"."""
    word = progress.status[:1].upper() + progress.status[1:]
    if progress.status == "finished" and progress.failed:
        return f"{word}, {count(progress.failed)} failed"
    return word


def tally(progress: Progress) -> str:
    """How much is done, such as "940 of 1,000 done"; what was cancelled is not."""
    if not progress.total:
        return "no items"
    return f"{count(progress.ok + progress.failed)} of {count(progress.total)} done"


def figures(progress: Progress, eta_range: tuple[float, float] | None = None) -> list[str]:
    """The figures of the second line, each a few words, in the order of their interest.

    Args:
        progress: the job at one moment.
        eta_range: the shortest and the longest time left that the recent rates suggest, in seconds.
    """
    goes_on = not progress.final and progress.status != "paused"  # a job that is paused is done when somebody lets it
    done = progress.ok + progress.failed
    words = []
    if progress.rate and goes_on:
        words.append(rate(progress.rate))
    if progress.eta is not None and goes_on:
        left = f"about {duration(progress.eta)} left"
        low, high = (duration(bound) for bound in eta_range) if eta_range else ("", "")
        words.append(left if low == high else f"{left} ({low} to {high})")
    words.append(f"in {duration(progress.elapsed)}" if progress.final else f"{duration(progress.elapsed)} so far")
    # Of a job that was attached to it is not known how much of the elapsed time it really ran.
    if progress.final and done and not progress.attached and progress.elapsed > 0:
        words.append(rate(done / progress.elapsed))
    if progress.p50 is not None:
        words.append(f"p50 {duration(progress.p50)}")
    if progress.p95 is not None:
        words.append(f"p95 {duration(progress.p95)}")
    if progress.retries:
        words.append(counted(progress.retries, "retry", "retries"))
    if progress.concurrency and not progress.final:
        words.append(f"{count(progress.concurrency)} at once")
    return words


def remarks(progress: Progress) -> list[str]:
    """Sentences under the figures: what was there already, what is awaited, what would be faster."""
    sentences = []
    if progress.attached:
        verb = "was" if progress.attached == 1 else "were"
        sentences.append(f"attached: {count(progress.attached)} of {count(progress.total)} {verb} already done")
    if progress.note:
        sentences.append(one_line(progress.note, 400))
    if progress.hint and not progress.final:
        sentences.append(one_line(progress.hint, 400))
    return sentences


def errors(progress: Progress) -> list[str]:
    """The most frequent failures, a line each, and how many items failed in other ways."""
    lines = []
    # Items that were cancelled are counted as such, and are no failures.
    groups = [group for group in progress.errors if group.error_type != "CancelledError" or not progress.cancelled]
    for group in groups[:ERRORS_SHOWN]:
        message = one_line(group.message)
        kind = one_line(group.error_type, 80)
        lines.append(f"{count(group.count)} \N{MULTIPLICATION SIGN} {kind}" + (f": {message}" if message else ""))
    # A job tells of its most frequent kinds only, so the kinds that are left out cannot be counted; the items can.
    others = progress.failed - sum(group.count for group in groups[:ERRORS_SHOWN])
    if lines and others > 0:
        lines.append(f"and {counted(others, 'more failed item')}: see job.errors()")
    return lines


def to_text(progress: Progress, eta_range: tuple[float, float] | None = None) -> str:
    """The panel as plain text, a few lines.

    Example:
        >>> print(to_text(Progress("pages", "fetch", "finished", total=3, ok=3, elapsed=1.5)))
        pages (fetch): Finished, 3 of 3 done, in 1.5 s, 2/s
    """
    tallies = [tally(progress)] + [
        f"{count(s.items)} {s.word}" for s in segments(progress) if s.word in {"failed", "cancelled", "running"}
    ]
    if progress.status == "finished":
        tallies = tallies[:1]  # the state tells the others
    head = ", ".join([state(progress), *tallies, *figures(progress, eta_range)])
    name = f"{one_line(progress.name, 80)} ({one_line(progress.function, 80)})"
    return "\n".join([f"{name}: {head}", *(f"  {line}" for line in (*remarks(progress), *errors(progress)))])


def to_html(progress: Progress, *, trend: Sequence[float] = (), eta_range: tuple[float, float] | None = None) -> str:
    """The panel as static HTML without style sheets or scripts; all foreign text is escaped.

    Args:
        progress: the job at one moment.
        trend: items finished per second over time, for the sparkline; none is drawn with fewer than three.
        eta_range: the shortest and the longest time left, in seconds.
    """
    name = escape(one_line(progress.name, 80))
    function = escape(one_line(progress.function, 80))
    parts = [
        f'<div role="group" aria-label="job {name}" style="max-width:760px;margin:4px 0 6px 0;padding:10px 14px;'
        "border:1px solid rgba(128,128,128,0.35);border-radius:6px;"
        'font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5">',
        '<div style="display:flex;justify-content:space-between;align-items:baseline;gap:16px">',
        f'<span style="overflow-wrap:anywhere"><b>{name}</b>'
        f' <span style="opacity:0.72;font-family:var(--jp-code-font-family,monospace)">{function}</span></span>',
        f'<span style="white-space:nowrap"><b>{escape(state(progress))}</b> '
        f'<span style="opacity:0.72">{escape(tally(progress))}</span></span>',
        "</div>",
        _bar(progress),
        _legend(progress, trend),
        _figures(progress, eta_range),
        *(_line(remark) for remark in remarks(progress)),
        _errors(progress),
        ui_anchor(progress.ui_url),
        "</div>",
    ]
    return "".join(parts)


def _line(text: str, style: str = "") -> str:
    return f'<div style="overflow-wrap:anywhere;{style}">{escape(text)}</div>'


def _figures(progress: Progress, eta_range: tuple[float, float] | None) -> str:
    spans = (f'<span style="white-space:nowrap">{escape(figure)}</span>' for figure in figures(progress, eta_range))
    return f'<div style="opacity:0.85;font-variant-numeric:tabular-nums">{" · ".join(spans)}</div>'


def _bar(progress: Progress) -> str:
    stretches = "".join(
        f'<div title="{count(s.items)} {s.word}" style="width:{s.percent:g}%;{s.background}"></div>'
        for s in segments(progress)
    )
    valuetext = escape(f"{tally(progress)}, {count(progress.failed)} failed")
    return (
        f'<div role="progressbar" aria-label="items done" aria-valuemin="0" aria-valuemax="{progress.total}" '
        f'aria-valuenow="{progress.done}" aria-valuetext="{valuetext}" style="display:flex;height:14px;'
        f'margin:7px 0 6px 0;border-radius:3px;overflow:hidden;background-color:{_TRACK}">{stretches}</div>'
    )


def _legend(progress: Progress, trend: Sequence[float]) -> str:
    entries = " ".join(
        f'<span style="margin-right:14px;white-space:nowrap"><span aria-hidden="true" style="color:{s.colour}">'
        f"{s.sign}</span> {count(s.items)} {s.word}</span>"
        for s in segments(progress)
    )
    drawn = _sparkline(trend)
    spark = f'<span style="white-space:nowrap">{drawn}</span>' if drawn else ""
    return (
        '<div style="display:flex;justify-content:space-between;align-items:center;gap:16px;'
        f'font-variant-numeric:tabular-nums"><span>{entries}</span>{spark}</div>'
    )


def _sparkline(rates: Sequence[float]) -> str:
    """Draw rates as the area of a word-sized SVG; an empty string with fewer than three of them.

    Args:
        rates: items finished per second, the oldest first, evenly spaced in time.
    """
    peak = max(rates, default=0.0)
    if len(rates) < 3 or peak <= 0:
        return ""
    width, height = 110, 18
    step = width / (len(rates) - 1)
    line = " ".join(f"{i * step:.1f},{height - 1 - (height - 2) * r / peak:.1f}" for i, r in enumerate(rates))
    title = f"throughput over time, at most {rate(peak)}"
    return (
        f'<svg role="img" aria-label="{title}" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'style="vertical-align:middle"><title>{title}</title>'
        f'<polygon points="0,{height} {line} {width},{height}" fill="currentColor" fill-opacity="0.12"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity="0.7" stroke-width="1.2"/></svg>'
    )


def _errors(progress: Progress) -> str:
    lines = errors(progress)
    if not lines:
        return ""
    rows = "".join(_line(line) for line in lines)
    return (
        f'<div style="margin-top:6px;padding-left:9px;border-left:3px solid {_VERMILLION};'
        f'font-family:var(--jp-code-font-family,monospace);font-size:12px">{rows}</div>'
    )


def ui_anchor(url: str) -> str:
    """The link to the Restate UI; empty without a web address: whatever else were there, a click must not run it."""
    if not url.startswith(("http://", "https://", "/")):
        return ""
    link = f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">Open in the Restate UI</a>'
    return f'<div style="margin-top:6px">{link}</div>'
