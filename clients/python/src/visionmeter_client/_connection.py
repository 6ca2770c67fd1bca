"""Which host is spoken to, and what keeps the key from going anywhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Any

import httpx

DISTRIBUTION = "visionmeter-client"
CONNECT_TIMEOUT_S_MAX = 10.0
KEY = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Connection:
    """A checked host and key. The key is in no `repr`, and in no message of an error."""

    host: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    is_encrypted: bool

    def arguments(self) -> dict[str, Any]:
        """What an `httpx` client takes."""
        headers = {"User-Agent": f"{DISTRIBUTION}/{_version()}"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": f"{self.host}/v1",
            "headers": headers,
            "timeout": httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, CONNECT_TIMEOUT_S_MAX)),
            # The key would travel with a redirect, to wherever it leads.
            "follow_redirects": False,
            # A proxy of the environment would read what goes there in clear.
            "trust_env": self.is_encrypted,
        }


def check_connection(host: str, api_key: str | None, *, timeout_s: float, allow_http: bool) -> Connection:
    """A host such as `https://vision.example.com` and a key that may go there. Raises `ValueError`."""
    host = host.strip().rstrip("/")
    try:
        url = httpx.URL(host)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ValueError("The host is an address such as https://vision.example.com or http://localhost:8501.")
    if api_key is not None:
        api_key = api_key.strip()
        # What no header can carry would be quoted, key and all, in the error that refuses it.
        if not KEY.fullmatch(api_key):
            raise ValueError("The API key has characters that no key has: copy it again.")
        if url.scheme == "http" and not _is_loopback(url.host) and not allow_http:
            raise ValueError(
                f"The key would go to {url.host} unencrypted: use https, or say allow_http=True on a network you trust."
            )
    if not timeout_s > 0:
        raise ValueError("timeout_s is a number of seconds above 0.")
    return Connection(host, api_key, timeout_s, is_encrypted=url.scheme == "https")


def _is_loopback(name: str) -> bool:
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"
