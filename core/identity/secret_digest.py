"""What a table holds of a secret that somebody else has: tokens, codes, links, keys."""

from __future__ import annotations

import hashlib


def digest_secret(secret: str) -> str:
    """The SHA-256 of a secret of high entropy, in hexadecimal digits.

    Pasted text may hold what UTF-8 cannot: it is then simply no secret of ours.
    """
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
