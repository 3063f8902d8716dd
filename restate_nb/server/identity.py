"""The server's identity: the key with which it signs its requests, so that our endpoint takes only them."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from restate_nb.errors import ServerError

KEY_FILE = "identity.pem"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58(data: bytes) -> str:
    """Encode as base58 with Bitcoin's alphabet, the form that Restate uses for public keys."""
    number = int.from_bytes(data)
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def identity_key(data_dir: Path) -> str:
    """The public key of the server of this directory, such as `publickeyv1_...`; the pair is made when there is none.

    Raises:
        ServerError: the key file cannot be written or is no Ed25519 key.
    """
    path = data_dir / KEY_FILE
    try:
        pem = path.read_bytes() if path.exists() else _make(path)
        key = serialization.load_pem_private_key(pem, password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it asks for a password
        raise ServerError(
            f"The server's identity key {path} cannot be used ({error}). Delete that file; a new key is made at the "
            f"next start."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ServerError(f"{path} is no Ed25519 key. Delete that file; a new key is made at the next start.")
    return "publickeyv1_" + base58(key.public_key().public_bytes_raw())


def _make(path: Path) -> bytes:
    """Write a new key, or take the one that another process wrote in the meantime."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename it never replaces a key that is there
    except FileExistsError:
        return path.read_bytes()
    finally:
        temporary.unlink(missing_ok=True)
    return pem
