"""What the charts share: colours, figures, legends, and how an empty chart says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from restate_nb.environment import in_notebook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType

DPI = 110


@dataclass(frozen=True, slots=True)
class Palette:
    """Okabe and Ito's colours, which the colour-blind tell apart; on dark ground, the lighter ones of them."""

    ok: str
    failed: str
    running: str
    idle: str
    text: ColorType


def palette(ax: Axes) -> Palette:
    """The colours for an Axes, after the colour of its text: a dark style sheet writes in white."""
    text = ax.xaxis.label.get_color()
    red, green, blue = to_rgb(text)
    if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5:
        return Palette("#56b4e9", "#f0803c", "#009e73", "#9a9a9a", text)
    return Palette("#0072b2", "#d55e00", "#56b4e9", "#8c8c8c", text)


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches that does not outlive its use.

    In a notebook it is one of pyplot's, since those are what Jupyter shows and closes at the end of the cell.
    Elsewhere pyplot would keep it for ever: it is free-standing, and `ax.figure.savefig(...)` writes it.
    """
    if in_notebook():
        from matplotlib import pyplot as plt  # noqa: PLC0415 - importing pyplot chooses a backend

        return plt.figure(figsize=(width, height), dpi=_dpi(), layout="constrained")
    return Figure(figsize=(width, height), dpi=_dpi(), layout="constrained")


def _dpi() -> float:
    return max(DPI, float(mpl.rcParams["figure.dpi"]))


def axes_for(ax: Axes | None, width: float = 9.0, height: float = 4.2) -> Axes:
    """The Axes to draw on: the given one, or a new figure's only one."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def tidy(ax: Axes, title: str, *, grid: str = "x") -> None:
    """Title on the left, no box, and faint lines to read values off."""
    ax.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if grid in {"x", "y"}:
        ax.grid(axis="x" if grid == "x" else "y", color=palette(ax).idle, alpha=0.25, lw=0.7)


def legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """A legend between title and axes, where it covers no data and fits into narrow axes."""
    if not handles:
        return
    ax.legend(
        handles=list(handles), loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(handles), frameon=False,
        fontsize="small", handlelength=1.4, columnspacing=1.2, borderaxespad=0.2, borderpad=0.1, handletextpad=0.5,
    )  # fmt: skip
    ax.set_title(ax.get_title(loc="left"), loc="left", pad=22, fontsize="medium", fontweight="bold")


def note_empty(ax: Axes, note: str) -> None:
    """Write into an Axes why nothing is drawn."""
    ax.text(0.5, 0.5, note, transform=ax.transAxes, ha="center", va="center", color=palette(ax).idle)


def read_out(read: Callable[[float, float], str], *axes: Axes) -> None:
    """Let an interactive backend say of the place under the mouse what `read` returns; the Axes on top is asked."""
    for ax in axes:
        ax.format_coord = read  # type: ignore[assignment, method-assign]
