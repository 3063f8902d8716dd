"""`files`: the files that patterns name, as items."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from restate_nb.errors import InvalidInput
from restate_nb.handle.listing import FoundFile, found

if TYPE_CHECKING:
    import pandas as pd


def files(*patterns: str | os.PathLike[str]) -> pd.DataFrame:
    """The files that patterns name, as a DataFrame with a row a file, in the order of their paths.

    Args:
        patterns: paths with `*` and `?` for parts of a name, and `**` for any folders, such as `"data/**/*.pdf"`; or
            the same in a bucket, `"s3://bucket/data/**/*.pdf"`. s3://, gs:// and az:// need `restate-nb[objects]` or
            fsspec, other addresses fsspec; the environment has the credentials. A file that several of them name is
            there once.

    Returns:
        Columns: `path` (as `open` takes it, or the address in the bucket); `size` in bytes; `modified`, in UTC; `etag`,
        which changes with the content: that of the bucket, or of this machine's files one made of time and size.
        Names that begin with a dot are left out, as shells do, unless the pattern has the dot; in buckets they are
        there.

    Raises:
        InvalidInput: a pattern without `*` names what is no file, or a bucket cannot be listed.

    Example:
        from pathlib import Path
        import restate_nb as rnb

        rnb.start()
        Path("notes").mkdir()
        Path("notes/a.txt").write_text("one two")
        job = rnb.map(lambda path: len(Path(path).read_text().split()), rnb.files("notes/**/*.txt")["path"])
        print(job.values())
    """
    if not patterns:
        raise InvalidInput('files takes at least one pattern, such as rnb.files("data/**/*.pdf").')
    known: dict[str, FoundFile] = {}
    for pattern in map(_text, patterns):
        some = list(found(pattern))
        known.update((each.path, each) for each in some)
        if not some:
            where = "" if "://" in pattern or os.path.isabs(pattern) else f" in {os.getcwd()}"  # noqa: PTH109, PTH117
            print(f"No file is named by {pattern!r}{where}.")
    return _frame_of([known[path] for path in sorted(known)])


def _text(pattern: object) -> str:
    text = os.fspath(pattern) if isinstance(pattern, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.strip():
        raise InvalidInput(f"A pattern of files is text or a path, such as 'data/**/*.pdf', not {pattern!r}.")
    return text


def _frame_of(some: list[FoundFile]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - heavy, loaded on first use

    from restate_nb.results.columns import typed_column  # noqa: PLC0415

    return pd.DataFrame(
        {
            "path": typed_column([each.path for each in some]),
            "size": pd.Series([each.size for each in some], dtype="int64"),
            "modified": pd.Series([each.modified for each in some], dtype="datetime64[us, UTC]"),
            "etag": typed_column([each.etag for each in some]),
        }
    )
