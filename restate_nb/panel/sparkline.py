"""A word-sized chart of a job's throughput, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from restate_nb.formatting import rate

_WIDTH, _HEIGHT = 110, 18


def sparkline(rates: Sequence[float]) -> str:
    """Draw rates as an area; an empty string with fewer than three of them.

    Args:
        rates: items finished per second, the oldest first, evenly spaced in time.
    """
    peak = max(rates, default=0.0)
    if len(rates) < 3 or peak <= 0:
        return ""
    step = _WIDTH / (len(rates) - 1)
    line = " ".join(f"{i * step:.1f},{_HEIGHT - 1 - (_HEIGHT - 2) * r / peak:.1f}" for i, r in enumerate(rates))
    said = f"throughput over time, at most {rate(peak)}"
    return (
        f'<svg role="img" aria-label="{said}" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'style="vertical-align:middle"><title>{said}</title>'
        f'<polygon points="0,{_HEIGHT} {line} {_WIDTH},{_HEIGHT}" fill="currentColor" fill-opacity="0.12"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity="0.7" stroke-width="1.2"/></svg>'
    )
