"""Which failures are of one kind: the same type, and the same message but for names, numbers and places."""

from __future__ import annotations

import re

_VARYING = re.compile(
    r"""(                                   # kept: a status of HTTP, which tells a 404 from a 429
          ^[45]\d\d(?=,|:|\ [A-Z])         # 429, message=...; 429 Client Error
        | ['"][45]\d\d\ [A-Z][\w -]*['"]   # '429 Too Many Requests'
        | \b(?:HTTP(?:/[\d.]+)?|[Ss]tatus|[Cc]ode|[Ee]rror)[\s:=]{1,2}[45]\d\d\b
      )
    | \s*\([^()]*\bline\ \d+\)            # where a SyntaxError was found: (file.py, line 3)
    | '[^'\n]{1,80}' | "[^"\n]{1,80}"       # what is quoted
    | \binv_[0-9A-Za-z]{10,}                # invocations
    | \b0x[0-9a-fA-F]+\b                    # addresses
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4,12}){1,4}\b   # UUIDs
    | (?:[\w.-]*/)+[\w.-]+                  # paths, URLs
    | \d+(?:[.,:]\d+)*                      # numbers, versions, times
    """,
    re.VERBOSE,
)
_LOOKED_AT = 500  # characters; the rest of a message seldom says what kind it is


def kind_of(message: str) -> str:
    """The message with `…` for what differs from item to item. The status of an HTTP answer stays.

    Example:
        >>> kind_of("No user 'ada' (id 17)") == kind_of("No user 'bob' (id 9)")
        True
        >>> kind_of("404 Not Found for url: http://a/1") == kind_of("429 Too Many Requests for url: http://a/1")
        False
    """
    return _VARYING.sub(lambda found: found[1] or "…", message[:_LOOKED_AT]).strip()
