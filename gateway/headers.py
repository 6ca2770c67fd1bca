"""What every answer tells a browser that it must not do with it: a policy of contents, of frames, of referrers.

Streamlit sets none. Its page needs inline styles (emotion writes them), blobs (of its own components and of downloads)
and one inline script, which is allowed by its digest as it is in the installed version; `eval` and other hosts are not.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.config import settings

_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
# Those of core.services.mails, and invitations.
_SECRET_LINK = re.compile(rb"(^|&)(confirm|reset|sign_up|invite)=")
# A year, as the lists of browsers ask; without sub-domains, which are not ours to speak for.
_HSTS = "max-age=31536000"
# The camera is asked for on Detect; the clipboard is written by the buttons that copy.
_PERMISSIONS = "camera=(self), clipboard-write=(self), geolocation=(), microphone=(), payment=(), usb=()"


class SecurityHeaders:
    """ASGI middleware around portal and gateway. What an answer says itself stays as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if _SECRET_LINK.search(scope.get("query_string", b"")):
                    # The address of the page is a mail's link: no request that the page makes names it, not even ours,
                    # and nobody keeps it.
                    headers["Referrer-Policy"] = "no-referrer"
                    headers["Cache-Control"] = "no-store"
                for name, value in security_headers().items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


@cache
def security_headers() -> dict[str, str]:
    """The headers by name. `Strict-Transport-Security` only where cookies are sent under TLS alone."""
    headers = {
        "Content-Security-Policy": content_security_policy(),
        # For browsers that do not know `frame-ancestors`.
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        # Addresses of runs and receipts are nobody else's business. Not `no-referrer`: forms would lose their Origin.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": _PERMISSIONS,
    }
    if settings().cookie_secure:
        headers["Strict-Transport-Security"] = _HSTS
    return headers


def content_security_policy() -> str:
    """As tight as the portal's pages allow."""
    scripts = " ".join(f"'sha256-{digest}'" for digest in _inline_scripts())
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' blob: {scripts}".rstrip(),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' blob:",
            "font-src 'self' data:",
            "worker-src 'self' blob:",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-src 'none'",
            "frame-ancestors 'none'",
        )
    )


def _inline_scripts() -> list[str]:
    """The digests of the inline scripts in Streamlit's page; none where only the gateway is installed."""
    spec = find_spec("streamlit")
    if spec is None or spec.origin is None:
        return []
    page = Path(spec.origin).with_name("static") / "index.html"
    if not page.is_file():
        return []
    return [
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in _INLINE_SCRIPT.findall(page.read_bytes())
    ]
