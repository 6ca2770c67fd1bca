"""What every answer forbids a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from core.config import settings
from gateway.headers import SecurityHeaders, content_security_policy, security_headers


@pytest.fixture
def client() -> TestClient:
    """An application with one plain answer and one that has a policy of its own."""

    async def plain(_request: object) -> Response:
        return Response("x")

    async def own(_request: object) -> Response:
        return Response("x", headers={"Content-Security-Policy": "sandbox", "Referrer-Policy": "no-referrer"})

    return TestClient(
        Starlette(routes=[Route("/", plain), Route("/own", own)], middleware=[Middleware(SecurityHeaders)])
    )


def test_every_answer_has_them(client: TestClient) -> None:
    """Also one for an address that is not there; what an answer says itself stays."""
    for path in ("/", "/nowhere"):
        headers = client.get(path).headers
        for name, value in security_headers().items():
            assert headers[name] == value
    own = client.get("/own").headers
    assert own["Content-Security-Policy"] == "sandbox"
    assert own["Referrer-Policy"] == "no-referrer"
    assert own["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("query", ["reset=x", "confirm=x", "sign_up=x", "a=1&reset=x", "invite=x"])
def test_a_mails_link_is_told_to_nobody(client: TestClient, query: str) -> None:
    """A page that was opened by a link with a secret names its address in no request, and is kept nowhere."""
    headers = client.get(f"/?{query}").headers
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert client.get("/?preset=x").headers["Referrer-Policy"] == "same-origin"


def test_the_policy_allows_no_script_from_elsewhere() -> None:
    """Neither inline nor by `eval` nor of another host; and the one inline script of the installed page is its own."""
    policy = dict(part.split(" ", 1) for part in content_security_policy().split("; "))
    scripts = policy["script-src"].split()
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "https:", "data:"} & set(scripts)
    assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
    assert policy["connect-src"] == policy["form-action"] == policy["base-uri"] == "'self'"
    spec = find_spec("streamlit")
    assert spec is not None
    assert spec.origin is not None
    page = (Path(spec.origin).parent / "static" / "index.html").read_bytes()
    inline = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    assert inline, "without one, no digest would be needed"
    for script in inline:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" in scripts


@pytest.mark.parametrize("secure", [True, False])
def test_tls_is_insisted_on_where_it_is(monkeypatch: pytest.MonkeyPatch, secure: bool) -> None:
    """Only with cookies that go under TLS alone: else the portal on localhost would lock itself out."""
    monkeypatch.setenv("VISIONMETER_COOKIE_SECURE", str(secure).lower())
    settings.cache_clear()
    security_headers.cache_clear()
    try:
        assert ("Strict-Transport-Security" in security_headers()) is secure
    finally:
        monkeypatch.undo()
        settings.cache_clear()
        security_headers.cache_clear()
