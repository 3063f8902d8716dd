"""Draws group-commit.svg, the picture on group-commit.md: `python docs/concepts/draw_group_commit.py`."""

from __future__ import annotations

import random
from pathlib import Path

WIDTH, ROW, LEFT = 760, 15, 96
WORKERS = 7
COMMITS = (190, 290, 400, 505, 615, 705)
COMMIT_TAKES = 26

rng = random.Random(4)
parts: list[str] = []


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 13, opacity: float = 1) -> None:
    """Add a line of text."""
    parts.append(
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="currentColor" '
        f'fill-opacity="{opacity:g}" font-family="system-ui, sans-serif">{words}</text>'
    )


ends: list[float] = []
text(LEFT - 10, 30 + WORKERS * ROW / 2, "items", anchor="end")
text(LEFT - 10, 30 + WORKERS * ROW / 2 + 15, "running", anchor="end", size=11, opacity=0.7)
for worker in range(WORKERS):
    x = LEFT + rng.uniform(0, 30)
    y = 30 + worker * ROW
    while x < 690:
        long = rng.uniform(28, 105)
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{long:.1f}" height="10" rx="2" fill="#4c8bf5" fill-opacity="0.75"/>'
        )
        ends.append(x + long)
        x += long + 3

journal = 30 + WORKERS * ROW + 78
text(LEFT - 10, journal + 20, "journal", anchor="end")
before = float(LEFT)
for at in COMMITS:
    group = [end for end in ends if before < end <= at]
    before = at
    parts.append(
        f'<line x1="{at}" y1="22" x2="{at}" y2="{30 + WORKERS * ROW + 6}" stroke="currentColor" '
        'stroke-opacity="0.45" stroke-dasharray="3 3"/>'
    )
    parts.append(
        f'<path d="M{at} {30 + WORKERS * ROW + 8} L{at + COMMIT_TAKES} {journal - 6}" stroke="#e08a2e" fill="none" '
        'stroke-width="2" marker-end="url(#tip)"/>'
    )
    parts.append(
        f'<rect x="{at + COMMIT_TAKES - 22}" y="{journal}" width="44" height="30" rx="4" fill="#e08a2e" '
        'fill-opacity="0.28" stroke="#e08a2e"/>'
    )
    text(at + COMMIT_TAKES, journal + 20, str(len(group)), anchor="middle")
text(LEFT, 14, "time →", size=11, opacity=0.7)
text(LEFT, journal + 56, "Each box is one journal entry: the outcomes that had gathered by then, and how many", size=12)
text(LEFT, journal + 73, "While one group is being committed, the next one gathers", size=12)

height = journal + 86
marker = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#e08a2e"/></marker></defs>'
)
label = "Items end at any time; their outcomes are committed in groups"
svg = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
    f"{marker}{''.join(parts)}</svg>"
)
Path(__file__).with_name("group-commit.svg").write_text(f'<div class="drawing">{svg}</div>\n')
