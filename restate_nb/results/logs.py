"""What a job's items printed, as a DataFrame."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from restate_nb.engine.output import Line

COLUMNS: Final = ["position", "stream", "at", "text"]


def logs_frame(lines: list[Line], index: pd.Index[Any]) -> pd.DataFrame:
    """One row a line, in the order in which they were printed, on the index of the input."""
    positions = np.fromiter((each.position for each in lines), dtype=np.int64, count=len(lines))
    frame = pd.DataFrame(
        {
            "position": positions,
            "stream": pd.Categorical([each.stream for each in lines], categories=["stdout", "stderr"]),
            "at": pd.to_datetime([each.at for each in lines], unit="s", utc=True).as_unit("us"),
            "text": pd.array([each.text for each in lines], dtype="string"),
        },
        columns=COLUMNS,
    )
    frame.index = index.take(positions)
    return frame
