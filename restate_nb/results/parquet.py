"""Writes a Parquet file that is there as a whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq

from restate_nb.results.arrow import Widened


def write_parquet(
    path: Path,
    tables: Callable[[], Iterator[Any]],
    metadata: Callable[[], Mapping[str, str]],
    options: Mapping[str, Any],
) -> None:
    """Write tables as row groups, each as it comes. Until the last is written, the file has another name.

    Args:
        path: the file; its directory exists.
        tables: gives all of them, anew with each call; see `Schema.table` for when it has to begin anew.
        metadata: what the file is to tell of itself, asked for when all is written.
        options: for pyarrow's `ParquetWriter`.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        while True:
            try:
                _write(part, tables(), metadata, options)
                break
            except Widened:
                continue
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _write(
    part: Path, tables: Iterator[Any], metadata: Callable[[], Mapping[str, str]], options: Mapping[str, Any]
) -> None:
    with part.open("wb") as file:
        table = next(tables)
        with pq.ParquetWriter(file, table.schema, **options) as writer:
            while table is not None:
                writer.write_table(table, row_group_size=max(len(table), 1))
                del table  # while the next one is made
                table = next(tables, None)
            writer.add_key_value_metadata(dict(metadata()))
        file.flush()
        os.fsync(file.fileno())
