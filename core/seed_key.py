"""The key that seeds of second factors are encrypted with: from the settings, or from a file beside the data.

Whoever has only the database, or only a back-up, makes nobody's codes of it (docs/adr/0037).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.config import Settings
from core.errors import SeedKeyError

FILE_NAME = "second-factor.key"
KEY_BYTES = 32
log = logging.getLogger("visionmeter")

_NONCE_BYTES = 12  # what AES-GCM is made for (NIST SP 800-38D)


@dataclass(frozen=True, slots=True)
class SeedKey:
    """A key of AES-256-GCM. `id` tells keys apart, and says nothing about them."""

    key: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(b"visionmeter seed key " + self.key).hexdigest()[:16]

    def seal(self, seed: str, *, bound_to: str) -> str:
        """A seed encrypted, as text; it opens only for the same `bound_to`, so that rows cannot be exchanged."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self.key).encrypt(nonce, seed.encode(), bound_to.encode())
        return base64.b64encode(nonce + sealed).decode()

    def unseal(self, sealed: str, *, bound_to: str) -> str:
        """The seed again. Raises `SeedKeyError` for what another key sealed, or what was changed."""
        try:
            data = base64.b64decode(sealed)
            return AESGCM(self.key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound_to.encode()).decode()
        except (InvalidTag, ValueError):
            raise unreadable() from None


def unreadable() -> SeedKeyError:
    """What is said where codes cannot be checked."""
    return SeedKeyError(
        "Codes cannot be checked here at present: sign in with a recovery code, or ask the operator, whose "
        "`visionmeter doctor` says more."
    )


def key_file(settings: Settings) -> Path | None:
    """The file that the key is kept in by default; None where a setting gives the key."""
    return None if settings.second_factor_key.get_secret_value() else settings.data_dir / FILE_NAME


def read_key(settings: Settings) -> SeedKey | None:
    """The key; None where none was made yet, or its file is gone. Raises `SeedKeyError` for a file that is no key."""
    text = settings.second_factor_key.get_secret_value()
    if not text:
        try:
            text = (settings.data_dir / FILE_NAME).read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeError):
            raise unreadable() from None
    try:
        key = base64.b64decode(text, altchars=b"-_", validate=True)
    except ValueError:
        raise unreadable() from None
    if len(key) != KEY_BYTES:
        raise unreadable()
    return SeedKey(key)


def make_key(settings: Settings) -> SeedKey:
    """Make the file, readable for us alone, whole or not at all; where two do so at once both get the same key.

    Raises `SeedKeyError` where it cannot be written.
    """
    path = settings.data_dir / FILE_NAME
    partial = path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
    try:
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)  # unlike a rename, it replaces nothing
        finally:
            partial.unlink(missing_ok=True)
    except FileExistsError:
        pass
    except OSError as error:
        log.error("the key of second factors cannot be written to %s: %s", path, error.strerror)
        raise unreadable() from None
    key = read_key(settings)
    if key is None:
        raise unreadable()
    return key
