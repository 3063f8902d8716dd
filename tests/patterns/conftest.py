"""Long tests run when they are asked for: pytest -m soak."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in str(config.option.markexpr):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="long; run pytest -m soak"))
