"""Reads what people give to reach a server: urls, tokens, and whose certificates to trust."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from restate_nb.errors import InvalidInput
from restate_nb.server.secret import Secret

TOKEN: Final = "RESTATE_AUTH_TOKEN"  # as Restate's own command line has it
TOKEN_FILE: Final = "RESTATE_AUTH_TOKEN_FILE"
MAX_TOKEN_BYTES: Final = 16 * 1024

Verify = bool | str | os.PathLike[str] | ssl.SSLContext
"""Whether certificates are checked; or a file of those that are trusted; or a context that knows."""


def read_url(name: str, url: object) -> str:
    """A base url as given by the user.

    Args:
        name: the argument's name, for the message.
        url: what was given.

    Raises:
        InvalidInput: it is no http or https url, or has parts that a base url cannot have.
    """
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{name} is a url such as 'http://localhost:8080', not {_without_password(url, parts)}.")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"{name} must not hold a user or a password, which would be shown: pass token=...")
    if parts.query or parts.fragment:
        raise InvalidInput(f"{name} ends with its path, and {_without_password(url, parts)} has more after it.")
    return parts.geturl().rstrip("/")


def read_bind(name: str, bind: object) -> tuple[str, int]:
    """A host and a port as given by the user.

    Args:
        name: the argument's name, for the message.
        bind: what was given.

    Raises:
        InvalidInput: it is none.
    """
    host, colon, port = bind.rpartition(":") if isinstance(bind, str) else ("", "", "")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidInput(f"{name} is a host and a port, such as '0.0.0.0:9081', not {bind!r}.")
    return host.strip("[]"), int(port)


Token = str | os.PathLike[str] | Secret | None
"""A token: the text, the path of a file that holds it, or None for that of the environment."""


def as_secret(token: Token) -> Token:
    """The token as given, its text as a `Secret`: no variable has it from here on, which tracebacks may show."""
    return Secret(token.strip()) if isinstance(token, str) else token


def read_token(token: Token) -> Secret | None:
    """The token that was given, or else that of the environment.

    Args:
        token: as `as_secret` returned it; empty for none.

    Raises:
        InvalidInput: the file cannot be read, or the text can be no token.
    """
    where, found = "token=", token
    if found is None and os.environ.get(TOKEN):
        where, found = TOKEN, as_secret(os.environ[TOKEN])
    elif found is None and os.environ.get(TOKEN_FILE):
        where, found = TOKEN_FILE, Path(os.environ[TOKEN_FILE])
    if isinstance(found, os.PathLike):
        found = as_secret(_read(Path(found)))
    if not isinstance(found, Secret) or not found:
        return None
    if not found.is_plain:
        raise InvalidInput(f"What {where} gives can be no token: one has printable ASCII characters and no spaces.")
    return found


def check_encrypted(secret: Secret | None, urls: Iterable[str]) -> None:
    """See that a token does not travel unencrypted.

    Raises:
        InvalidInput: it would.
    """
    for url in urls:
        parts = urlsplit(url)
        if secret is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise InvalidInput(
                f"The token would travel unencrypted to {parts.netloc}: use an https url there, or send none "
                'with token="".'
            )


def read_tls(verify: Verify) -> ssl.SSLContext | None:
    """Whom to trust; None for those whom the operating system trusts.

    Raises:
        InvalidInput: the file cannot be read or holds no certificates.
    """
    if verify is True:
        return None
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=os.fspath(verify))
    except (OSError, TypeError) as error:  # SSLError is an OSError
        raise InvalidInput(
            f"verify={verify!r} cannot be used ({error}): it is a file with certificates as PEM, an SSLContext, True "
            "or False."
        ) from None


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: object) -> SplitResult | None:
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    return parts


def _without_password(url: object, parts: SplitResult | None) -> str:
    """What was given, without what may be a password in it."""
    if parts is None or not isinstance(url, str) or "@" in url:
        return "what was given"
    return repr(f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else url[:80])


def _read(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            text = file.read(MAX_TOKEN_BYTES + 1)
        if len(text) > MAX_TOKEN_BYTES:
            raise InvalidInput(f"{path} is too large to hold a token.")
        return text.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = "it holds other than ASCII" if isinstance(error, UnicodeDecodeError) else str(error)
        raise InvalidInput(f"The token cannot be read from {path}: {why}.") from None
