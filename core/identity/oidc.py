"""OpenID Connect with one provider: authorization code flow with PKCE (S256); the ID token is verified by Authlib.

Sources: OpenID Connect Core 1.0, sections 3.1 and 5.1; Discovery 1.0; RFC 7636 (PKCE); RFC 9207 (`iss`). It knows no
database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from core.addresses import is_loopback
from core.errors import OidcRefusedError

with warnings.catch_warnings():
    # It prefers httpx2, and says so at every start; httpx is what else is here.
    warnings.simplefilter("ignore")
    from authlib.integrations.httpx_client import OAuth2Client

T = TypeVar("T")

# Of one wait, and of all that one step of a sign-in asks the provider.
TIMEOUT_S = 5.0
STEP_S_MAX = 10.0
# So many steps may hang at once; further ones are refused.
STEPS_MAX = 16
DOCUMENT_BYTES_MAX = 1_000_000
KNOWN_FOR_S = 3600.0
CLOCK_LEEWAY_S = 60
# No `none`, and no HS…: with those a public key would do as the secret.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


@dataclass(frozen=True, slots=True)
class Claims:
    """Who signed in at the provider. Without a verified address `email` is None."""

    issuer: str
    subject: str
    email: str | None


class SignInSecret:
    """What the browser keeps between start and callback, and all that is made of it.

    The database holds its digest only, the provider sees `state`, `nonce` and the verifier's hash.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode(errors="replace")

    @staticmethod
    def make() -> str:
        """A new one: 256 random bits."""
        return secrets.token_urlsafe(32)

    @property
    def digest(self) -> str:
        """Under which it is stored."""
        return hashlib.sha256(self._secret).hexdigest()

    def derive(self, use: str) -> str:
        """43 characters for one use: `state`, `nonce` or `verifier`."""
        return urlsafe_b64encode(hmac.digest(self._secret, use.encode(), "sha256")).decode().rstrip("=")


@dataclass
class Provider:
    """One identity provider. Its document and keys are fetched when they are needed, and known for an hour."""

    issuer: str
    client_id: str
    client_secret: str
    redirect_uri: str
    _known: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(STEPS_MAX))

    def authorization_url(self, secret: SignInSecret) -> str:
        """Where the browser is sent. Raises `OidcRefusedError` when the provider cannot be reached."""
        endpoint = self._in_time(lambda: self._endpoint("authorization_endpoint"))
        with self._client() as client:
            url, _state = client.create_authorization_url(
                endpoint,
                state=secret.derive("state"),
                nonce=secret.derive("nonce"),
                code_verifier=secret.derive("verifier"),
            )
        return str(url)

    def claims_of(self, code: str, secret: SignInSecret, *, said_by: str | None = None) -> Claims:
        """Use a code up; gives who signed in. `said_by` is the issuer that came with it. Raises `OidcRefusedError`."""
        return self._in_time(lambda: self._claims_of(code, secret, said_by))

    def metadata(self, *, afresh: bool = False) -> dict[str, Any]:
        """The discovery document. Raises `OidcRefusedError`."""
        return self._in_time(lambda: self._metadata(afresh=afresh))

    def _claims_of(self, code: str, secret: SignInSecret, said_by: str | None) -> Claims:
        metadata = self._metadata()
        is_said = said_by is not None or metadata.get("authorization_response_iss_parameter_supported") is True
        if is_said and said_by != self.issuer:
            # RFC 9207: the code of another provider, which would learn nothing from us, but whose answer is no answer.
            raise _refused("token", "it is another issuer's, or does not say whose")
        endpoint = self._endpoint("token_endpoint")
        try:
            with self._client() as client:
                client.token_endpoint_auth_method = self._auth_method(metadata)
                token = client.fetch_token(
                    endpoint, grant_type="authorization_code", code=code, code_verifier=secret.derive("verifier")
                )
                claims = self._verify(token, secret.derive("nonce"))
                if "email" not in claims and "userinfo_endpoint" in metadata:
                    more = client.get(self._endpoint("userinfo_endpoint")).raise_for_status().json()
                    # Core, 5.3.2: it may be somebody else's.
                    if more.get("sub") == claims["sub"]:
                        claims = {**more, **claims}
        except httpx.HTTPError as error:
            raise _refused("provider", f"it cannot be reached ({type(error).__name__})") from error
        # What a provider sends may be of any shape.
        except (AuthlibBaseError, JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _refused("token", " ".join(f"{type(error).__name__}: {error}".split())[:300]) from error
        subject, email = claims["sub"], claims.get("email")
        if not (isinstance(subject, str) and 0 < len(subject) <= 255):
            raise _refused("token", "the subject is no text of at most 255 characters")
        is_verified = claims.get("email_verified") is True and isinstance(email, str)
        return Claims(self.issuer, subject, email if is_verified else None)

    def _metadata(self, *, afresh: bool = False) -> dict[str, Any]:
        document = self._fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration", afresh=afresh)
        if document.get("issuer") != self.issuer:
            raise _refused("provider", f"its document names another issuer: {document.get('issuer')!r:.300}")
        return document

    def _endpoint(self, name: str) -> str:
        url = self._metadata().get(name)
        if not isinstance(url, str) or not (url.startswith("https://") or is_loopback(urlsplit(url).hostname or "")):
            raise _refused("provider", f"its document has no {name} under https")
        return url

    def _verify(self, token: dict[str, Any], nonce: str) -> dict[str, Any]:
        options = {
            "iss": {"essential": True, "value": self.issuer},
            "aud": {"essential": True, "value": self.client_id},
        }
        params = {"nonce": nonce, "client_id": self.client_id, "access_token": token.get("access_token")}
        try:
            decoded = self._decode(token["id_token"], afresh=False)
        except (InvalidKeyIdError, BadSignatureError):
            decoded = self._decode(token["id_token"], afresh=True)  # its keys were rotated
        claims = CodeIDToken(decoded.claims, decoded.header, options, params)
        claims.validate(leeway=CLOCK_LEEWAY_S)
        return dict(claims)

    def _decode(self, id_token: str, *, afresh: bool) -> jwt.Token:
        keys = KeySet.import_key_set(self._fetch(self._endpoint("jwks_uri"), afresh=afresh))  # type: ignore[arg-type]  # a provider's JSON
        return jwt.decode(id_token, keys, registry=JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False))

    def _fetch(self, url: str, *, afresh: bool) -> dict[str, Any]:
        with self._mutex:
            fetched_at, document = self._known.get(url, (0.0, {}))
        if document and not afresh and time.monotonic() - fetched_at < KNOWN_FOR_S:
            return document
        try:
            document = json.loads(_read(url))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise _refused("provider", f"it cannot be reached ({type(error).__name__})") from error
        if not isinstance(document, dict):
            raise _refused("provider", "its document is no JSON object")
        with self._mutex:
            self._known[url] = time.monotonic(), document
        return document

    def _auth_method(self, metadata: dict[str, Any]) -> str:
        if not self.client_secret:
            return "none"
        # Discovery, 3: where nothing is said, it is the first.
        offered = metadata.get("token_endpoint_auth_methods_supported")
        if isinstance(offered, list) and "client_secret_basic" not in offered and "client_secret_post" in offered:
            return "client_secret_post"
        return "client_secret_basic"

    def _in_time(self, step: Callable[[], T]) -> T:
        """What a step gives. It cannot be interrupted (a resolver, a server that drips): nobody waits longer for it."""
        answers: list[T] = []
        failures: list[BaseException] = []

        def take() -> None:
            try:
                answers.append(step())
            except BaseException as error:  # handed to the caller, who waits for it
                failures.append(error)
            finally:
                self._places.release()

        # Nobody waits for a place: whoever comes after them would wait behind him.
        if not self._places.acquire(blocking=False):
            raise _refused("provider", "earlier questions to it hang")
        thread = threading.Thread(target=take, name="identity-provider", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._places.release()
            raise _refused("provider", "there is no thread to ask it") from None
        thread.join(STEP_S_MAX)
        if failures:
            raise failures[0]
        if not answers:
            raise _refused("provider", f"it takes longer than {STEP_S_MAX:g} seconds")
        return answers[0]

    def _client(self) -> Any:
        return OAuth2Client(
            self.client_id,
            self.client_secret,
            scope="openid email",
            redirect_uri=self.redirect_uri,
            code_challenge_method="S256",
            timeout=TIMEOUT_S,
        )


def _read(url: str) -> bytes:
    """A document of the provider. Raises `httpx.HTTPError` or, for one that is too long, `ValueError`."""
    body = bytearray()
    with httpx.stream("GET", url, timeout=TIMEOUT_S) as response:
        for piece in response.raise_for_status().iter_bytes():
            body += piece
            if len(body) > DOCUMENT_BYTES_MAX:
                raise ValueError("a document of more than a megabyte")
    return bytes(body)


def _refused(reason: str, why: str) -> OidcRefusedError:
    return OidcRefusedError(f"The identity provider's answer cannot be used: {why}.", reason=reason)
