"""A real identity provider on the loopback: RSA keys, PKCE, codes that are used once; tests bend its answers."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.listening import listening

CLIENT_ID = "visionmeter"
CLIENT_SECRET = "secret-of-the-client"


@cache
def _first_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "first", "use": "sig"})


@dataclass
class IdentityProvider:
    """`claims` are those of whoever sits there; `make_id_token` may be replaced by another maker of tokens."""

    url: str
    claims: dict[str, Any] = field(
        default_factory=lambda: {"sub": "ann-1", "email": "ann@example.com", "email_verified": True}
    )
    key: RSAKey = field(default_factory=_first_key)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    keys_asked_for: int = 0
    # Seconds between two bytes of the answer to a code; None answers at once.
    drip_s: float | None = None
    document: dict[str, Any] = field(default_factory=dict)
    # What it sends back in place of the state that it was given.
    state: str | None = None
    make_id_token: Any = None

    def id_token(self, nonce: str, /, **changes: Any) -> str:
        """A signed token as it should be, but for the changes; a claim that becomes None is left out."""
        claims = self.all_claims(nonce, **changes)
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    def all_claims(self, nonce: str, /, **changes: Any) -> dict[str, Any]:
        """What stands in the token."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce, **self.claims}
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def rotate(self) -> None:
        """Sign with another key from now on."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["client_id"] == CLIENT_ID
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': self.state or asked['state']})}"

    def answer_token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """A code is used once, by our client, with the verifier of its challenge."""
        expected = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        is_ours = authorization == expected
        if self.document.get("token_endpoint_auth_methods_supported") == ["client_secret_post"]:
            is_ours = (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        asked = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if not is_ours:
            return 401, {"error": "invalid_client"}
        if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        make = self.make_id_token or self.id_token
        return 200, {"access_token": secrets.token_hex(8), "token_type": "Bearer", "id_token": make(asked["nonce"])}


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """A provider that answers until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/.well-known/openid-configuration":
                names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                addresses = {name: f"{provider.url}/{path}" for name, path in names.items()}
                self._json(200, {"issuer": provider.url, **addresses, **provider.document})
            elif parts.path == "/keys":
                provider.keys_asked_for += 1
                self._json(200, {"keys": [provider.key.as_dict(private=False)]})
            elif parts.path == "/authorize":
                self.send_response(302)
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.send_header("Location", provider.authorize(asked))
                self.end_headers()
            else:
                self._json(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._json(*provider.answer_token(form, self.headers.get("Authorization", "")))

        def _json(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if provider.drip_s is None or self.command == "GET":
                self.wfile.write(body)
                return
            with suppress(OSError):
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(provider.drip_s)

        def log_message(self, *_words: Any) -> None:
            """Not among the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = IdentityProvider(f"http://127.0.0.1:{server.server_address[1]}")
    with listening(server):
        yield provider
