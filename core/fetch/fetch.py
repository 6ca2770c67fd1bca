"""Fetching a picture from an address that a customer gives, and sending a webhook to one.

httpcore is used as it is, without httpx on top: it follows no redirect, keeps no cookie, reads no proxy from the
environment and unpacks nothing. What happens is written here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from ssl import SSLContext
from urllib.parse import urljoin

import httpcore

from core.errors import ImageTooManyBytesError, ImageUrlFailedError, ImageUrlRefusedError, WebhookUrlRefusedError
from core.fetch.addresses import NotCalledError, Target, check_url, judge, parse_allowed_hosts, parse_url
from core.fetch.networks import IPAddress
from core.fetch.wire import Deadline, PinnedNetwork, Resolve, resolve_by, system_resolve

USER_AGENT = "VisionMeter/1"
WEBHOOK_TIMEOUT_S = 10.0
WEBHOOK_ANSWER_BYTES_MAX = 65_536

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Of the addresses of one name, so many are tried.
_ADDRESSES_MAX = 4
_WIRE_ERRORS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


@dataclass(frozen=True)
class Fetched:
    """What an address gave. Nothing is known of the bytes but their number: their reader must look into them."""

    data: bytes
    final_url: str
    ms: int


class Fetcher:
    """Calls addresses that strangers give. Holds no state between calls; one serves all threads.

    `allowed_hosts` is the setting's text. `resolve` and `network` are how names are looked up and addresses dialled:
    what is judged is always `resolve`'s answer, and `network` is told that address and no other.
    """

    def __init__(
        self,
        *,
        allowed_hosts: str = "",
        resolve: Resolve = system_resolve,
        network: httpcore.NetworkBackend | None = None,
        ssl_context: SSLContext | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 3.0,
        redirects_max: int = 3,
    ) -> None:
        self._allowed = parse_allowed_hosts(allowed_hosts)
        self._resolve = resolve
        self._network = network or httpcore.SyncBackend()
        self._ssl_context = ssl_context or _public_authorities()
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._redirects_max = redirects_max

    def fetch(self, url: str, *, bytes_max: int) -> Fetched:
        """GET an address and follow its redirects, within `timeout_s` in all.

        Raises `ImageUrlRefusedError` where it, or what it redirects to, is not called; `ImageUrlFailedError` where it
        gives nothing; `ImageTooManyBytesError` as soon as it gives more than `bytes_max`.
        """
        started = time.monotonic()
        deadline = Deadline(self._timeout_s)
        target = check_url(url, self._allowed)
        facts = {"url_host": target.host}
        try:
            for hop in range(self._redirects_max + 1):
                try:
                    addresses = self._addresses(target, deadline)
                except NotCalledError as error:
                    raise ImageUrlRefusedError(str(error) if hop == 0 else _REDIRECT_REFUSED, **facts) from None
                answer = self._get(target, addresses, deadline, bytes_max, facts)
                if isinstance(answer, bytes):
                    return Fetched(answer, target.url, round((time.monotonic() - started) * 1000))
                target = self._redirected(target, answer, facts)
        except httpcore.TimeoutException:
            raise ImageUrlFailedError(
                f"The address gave no whole picture within {self._timeout_s:g} seconds: try again, or send the picture "
                "itself.",
                **facts,
            ) from None
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError):
            raise ImageUrlFailedError(
                "The address could not be called, or broke off: check its host, its certificate and that it is up.",
                **facts,
            ) from None
        raise ImageUrlFailedError(
            f"The address redirects more than {self._redirects_max} times: give the picture's own address.", **facts
        )

    def check_webhook_url(self, url: str) -> None:
        """Say at once that no webhook would be sent to an address. Raises `WebhookUrlRefusedError`.

        `post` checks again. A name that cannot be looked up now may well be there when the webhook is sent.
        """
        target = check_url(url, self._allowed, WebhookUrlRefusedError)
        try:
            self._addresses(target, Deadline(self._connect_timeout_s))
        except NotCalledError as error:
            raise WebhookUrlRefusedError(str(error), url_host=target.host) from None
        except (OSError, httpcore.TimeoutException):
            return

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int | None:
        """POST a webhook, within 10 seconds in all; the status of the answer, `None` where there was none.

        Redirects are not followed: their status is the answer. Raises `WebhookUrlRefusedError`, also where an address
        that was good when it was given now leads elsewhere.
        """
        deadline = Deadline(WEBHOOK_TIMEOUT_S)
        target = check_url(url, self._allowed, WebhookUrlRefusedError)
        status: int | None = None
        try:
            addresses = self._addresses(target, deadline)
            with self._call("POST", target, addresses, deadline, headers, body) as response:
                status = response.status
                received = 0
                for piece in response.iter_stream():
                    received += len(piece)
                    if received > WEBHOOK_ANSWER_BYTES_MAX:
                        break
        except NotCalledError as error:
            raise WebhookUrlRefusedError(str(error), url_host=target.host) from None
        except (OSError, *_WIRE_ERRORS):
            return status
        return status

    def _addresses(self, target: Target, deadline: Deadline) -> Sequence[IPAddress]:
        """The checked IP addresses of a target, looked up once."""
        if target.ip is not None:
            return [target.ip]
        addresses = judge(target, resolve_by(self._resolve, target.host, target.port, deadline), self._allowed)
        if not addresses:
            raise OSError("the name has no address")
        return addresses[:_ADDRESSES_MAX]

    @contextmanager
    def _call(
        self,
        method: str,
        target: Target,
        addresses: Sequence[IPAddress],
        deadline: Deadline,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Iterator[httpcore.Response]:
        """One request on a connection of its own."""
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        network = PinnedNetwork(self._network, addresses, deadline, self._connect_timeout_s)
        with (
            httpcore.ConnectionPool(ssl_context=self._ssl_context, network_backend=network) as pool,
            pool.stream(
                method,
                url,
                headers=[
                    ("Host", target.host_header),
                    ("User-Agent", USER_AGENT),
                    ("Connection", "close"),
                    *headers.items(),
                ],
                content=body,
            ) as response,
        ):
            yield response

    def _get(
        self, target: Target, addresses: Sequence[IPAddress], deadline: Deadline, bytes_max: int, facts: dict[str, str]
    ) -> bytes | str:
        """The bytes that a target gives, or where it redirects to."""
        headers = {"Accept": "image/*, */*;q=0.1", "Accept-Encoding": "identity"}
        with self._call("GET", target, addresses, deadline, headers) as response:
            if response.status in _REDIRECTS:
                return _one_header(response, b"location")
            if response.status != 200:
                raise ImageUrlFailedError(
                    f"The address answered with status {response.status}, no picture: check that anybody may open it.",
                    **facts,
                )
            if _one_header(response, b"content-encoding").strip().lower() not in ("", "identity"):
                raise ImageUrlFailedError(
                    "The address gives the picture compressed once more, which nobody asked for: serve it as it is.",
                    **facts,
                )
            # What is announced can only refuse; what is received is counted whatever was announced.
            announced = _one_header(response, b"content-length")
            data = bytearray()
            if int(announced or 0) <= bytes_max:
                for piece in response.iter_stream():
                    data += piece
                    if len(data) > bytes_max:
                        break
                    deadline.left_s()
                else:
                    return bytes(data)
        raise ImageTooManyBytesError(
            f"The address gives more than the {bytes_max / 1e6:g} MB that are accepted: give a smaller picture.",
            bytes_max=bytes_max,
            **facts,
        )

    def _redirected(self, target: Target, location: str, facts: dict[str, str]) -> Target:
        """The next target; it is judged as the first was, and never goes from https back to http."""
        if not location:
            raise ImageUrlFailedError("The address redirects to nowhere: give the picture's own address.", **facts)
        try:
            # urljoin drops control characters, so they are looked for before.
            if not location.isprintable() or " " in location:
                raise NotCalledError(_REDIRECT_REFUSED)
            following = parse_url(urljoin(target.url, location), self._allowed)
        except (NotCalledError, ValueError):
            raise ImageUrlRefusedError(_REDIRECT_REFUSED, **facts) from None
        if target.scheme == "https" and following.scheme == "http":
            raise ImageUrlRefusedError(
                "The address redirects from https to http: give the picture's own address.", **facts
            )
        return following


@cache
def _public_authorities() -> SSLContext:
    """The certificates of the public authorities; reading them takes longer than most calls."""
    return httpcore.default_ssl_context()


_REDIRECT_REFUSED = "The address redirects to one that is not called: give the picture's own address."


def _one_header(response: httpcore.Response, name: bytes) -> str:
    """A header's value; empty where it is missing. Raises `httpcore.RemoteProtocolError` where it comes twice."""
    values = {value for key, value in response.headers if key.lower() == name}
    if len(values) > 1:
        raise httpcore.RemoteProtocolError("one header with two values")
    try:
        return values.pop().decode("utf-8") if values else ""
    except UnicodeDecodeError:
        raise httpcore.RemoteProtocolError("a header is no text") from None
