"""Addresses on the web that an operator sets: which of them passwords, codes and sessions may go to."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine's own."""
    return host in ("localhost", "127.0.0.1", "::1")


def is_safe_address(url: str) -> bool:
    """Whether passwords and codes may go there: https, or http on this machine, and nothing but host and path."""
    try:
        parts = urlsplit(url)
        is_private = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        return False
    return is_private and bool(parts.hostname) and not (parts.query or parts.fragment or parts.username is not None)
