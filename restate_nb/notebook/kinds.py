"""Which failures are of one kind: the same type, and the same message but for names, numbers and places."""

from __future__ import annotations

import re

_VARYING = re.compile(
    r"""\s*\([^()]*\bline\ \d+\)            # where a SyntaxError was found: (file.py, line 3)
    | '[^'\n]{1,80}' | "[^"\n]{1,80}"       # what is quoted
    | \b0x[0-9a-fA-F]+\b                    # addresses
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4,12}){1,4}\b   # UUIDs
    | (?:[\w.-]*/)+[\w.-]+                  # paths, URLs
    | \d+(?:[.,:]\d+)*                      # numbers, versions, times
    """,
    re.VERBOSE,
)
_LOOKED_AT = 500  # characters; the rest of a message seldom says what kind it is


def kind_of(message: str) -> str:
    """The message with `…` for what differs from item to item.

    Example:
        >>> kind_of("No user 'ada' (id 17)") == kind_of("No user 'bob' (id 9)")
        True
    """
    return _VARYING.sub("…", message[:_LOOKED_AT]).strip()
