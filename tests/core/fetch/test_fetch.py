"""Fetching and posting against real servers: what is sent, what is accepted, and when a call is over."""

from __future__ import annotations

import collections
import gzip
import itertools
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from core.errors import ImageTooManyBytesError, ImageUrlFailedError, ImageUrlRefusedError, WebhookUrlRefusedError
from core.fetch import fetch as fetch_module
from core.fetch import wire
from core.fetch.fetch import Fetched, Fetcher
from tests.core.fetch.servers import (
    CERTIFICATES,
    PUBLIC,
    PUBLIC_V6,
    LoopbackNetwork,
    Server,
    ok,
    redirect,
    repeats,
    resolves_to,
    says,
    serving,
)

URL = "http://pictures.example.com/a.jpg"
# What a call may take beyond its deadline on a busy machine; the servers below would go on for ever.
SLACK_S = 2.0


def fetch(
    server: Server, url: str = URL, *, bytes_max: int = 1000, timeout_s: float = 5.0, **options: object
) -> Fetched:
    """Fetch from a server on loopback as if it were public."""
    fetcher = Fetcher(
        resolve=resolves_to(PUBLIC),
        network=LoopbackNetwork(server.port),
        timeout_s=timeout_s,
        **options,  # type: ignore[arg-type]  # each test gives what it means
    )
    return fetcher.fetch(url, bytes_max=bytes_max)


# What is sent --------------------------------------------------------------------------------------


def test_what_a_server_is_told() -> None:
    """One GET with the name as host, no credentials, no cookie, nothing compressed; the whole picture comes back."""
    with serving(says(ok(b"picture"))) as server:
        fetched = fetch(server, "http://Pictures.Example.com:8080/a%20b/é.jpg?x=1&y=#part")
    assert fetched.data == b"picture"
    assert fetched.final_url == "http://pictures.example.com:8080/a%20b/%C3%A9.jpg?x=1&y="
    lines = server.requests[0].decode().split("\r\n")
    assert lines[0] == "GET /a%20b/%C3%A9.jpg?x=1&y= HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    assert headers == {
        "host": "pictures.example.com:8080",
        "user-agent": "visionmeter/1",
        "accept": "image/*, */*;q=0.1",
        "accept-encoding": "identity",
        "connection": "close",
    }


def test_a_redirect_is_followed_without_cookies() -> None:
    """A good redirect of each kind is fetched with GET from its own host, and takes no cookie along."""
    for status in (301, 302, 303, 307, 308):
        answers = iter(
            [
                redirect(status, "//other.example.org/b").replace(b"\r\n", b"\r\nSet-Cookie: a=b\r\n", 1),
                redirect(status, "c.jpg?d").replace(b"\r\n", b"\r\nSet-Cookie: c=d\r\n", 1),
                ok(b"picture"),
            ]
        )
        with serving(lambda connection, _head, answers=answers: connection.sendall(next(answers))) as server:
            fetched = fetch(server)
        assert fetched.data == b"picture"
        assert fetched.final_url == "http://other.example.org/c.jpg?d"
        assert [request.split(b"\r\n")[0] for request in server.requests] == [
            b"GET /a.jpg HTTP/1.1",
            b"GET /b HTTP/1.1",
            b"GET /c.jpg?d HTTP/1.1",
        ]
        assert b"Host: other.example.org\r\n" in server.requests[2]
        assert not any(b"cookie" in request.lower() for request in server.requests)


def test_an_ipv6_address_as_host() -> None:
    """The host header has the brackets, the dialled address has none, and nothing is looked up."""
    with serving(says(ok())) as server:
        network = LoopbackNetwork(server.port)
        Fetcher(resolve=resolves_to(), network=network).fetch(f"http://[{PUBLIC_V6}]:8080/", bytes_max=1000)
    assert network.dialled == [(PUBLIC_V6, 8080)]
    assert f"Host: [{PUBLIC_V6}]:8080\r\n".encode() in server.requests[0]


def test_an_allowed_host_is_fetched_on_loopback() -> None:
    """With the operator's word, and the system's own resolver and network, this machine is called."""
    with serving(says(ok(b"picture"))) as server:
        for allowed, url in (
            (f"127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}/"),
            ("localhost", f"http://localhost:{server.port}/"),
            ("127.0.0.0/8", f"http://127.0.0.1:{server.port}/"),
        ):
            assert Fetcher(allowed_hosts=allowed).fetch(url, bytes_max=1000).data == b"picture"
        with pytest.raises(ImageUrlRefusedError):
            Fetcher(allowed_hosts="127.0.0.1:1").fetch(f"http://127.0.0.1:{server.port}/", bytes_max=1000)
    assert server.connections == 3


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    """All addresses of a name were checked, so each may be tried, in the resolver's order."""

    class HalfDead(LoopbackNetwork):
        def connect_tcp(self, host: str, port: int, **options: object) -> object:  # type: ignore[override]  # a test's double
            stream = super().connect_tcp(host, port, **options)
            if host == PUBLIC_V6:
                stream.close()
                raise wire.httpcore.ConnectError("refused")
            return stream

    with serving(says(ok(b"picture"))) as server:
        network = HalfDead(server.port)
        fetcher = Fetcher(resolve=resolves_to(PUBLIC_V6, PUBLIC), network=network)
        assert fetcher.fetch(URL, bytes_max=1000).data == b"picture"
    assert network.dialled == [(PUBLIC_V6, 80), (PUBLIC, 80)]


# What is accepted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\npicture",
        b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\npic\r\n4;x=y\r\nture\r\n0\r\nT: u\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture, and more",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 7\r\n\r\npicture",
    ],
)
def test_ordinary_answers(answer: bytes) -> None:
    """With and without a length, in chunks, after a hint, under any content type: the bytes are the body's."""
    with serving(says(answer)) as server:
        assert fetch(server).data == b"picture"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00" * 500,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command\r\n",
        b"HTTP/1.1 200",
        b"HTTPS/1.1 200 OK\r\n\r\npicture",
        b"HTTP/1.1 99999 OK\r\n\r\npicture",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\npicture",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 300 Choices\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 305 Use Proxy\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 302 Found\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 302 Found\r\nLocation: \r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /\xff\xfe\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\npicture!",
        b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\npic",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: identity, gzip\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nX\x00: y\r\n\r\npicture",
    ],
)
def test_answers_that_hold_no_picture(answer: bytes) -> None:
    """Garbage, other statuses, lengths that lie and bodies that break off are one expected failure, in one sentence."""
    with serving(says(answer)) as server, pytest.raises((ImageUrlFailedError, ImageTooManyBytesError)) as caught:
        fetch(server)
    assert caught.value.message.endswith(".")
    assert caught.value.details["url_host"] == "pictures.example.com"
    assert "picture!" not in caught.value.message


def test_a_compressed_bomb_is_not_unpacked() -> None:
    """A megabyte of zeroes in a kilobyte is refused by its header; without one it stays the kilobyte that it is."""
    bomb = gzip.compress(bytes(1_000_000))
    with serving(says(ok(bomb, ["Content-Encoding: gzip"]))) as server, pytest.raises(ImageUrlFailedError):
        fetch(server, bytes_max=10_000)
    with serving(says(ok(bomb))) as server:
        assert fetch(server, bytes_max=10_000).data == bomb


def test_the_size_at_its_limit() -> None:
    """Exactly `bytes_max` bytes pass, one more does not, announced or not."""
    for start in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):
        for size in (1000, 1001):
            head = start % size if b"%d" in start else start
            with serving(says(head + bytes(size))) as server:
                if size == 1000:
                    assert len(fetch(server).data) == 1000
                    continue
                with pytest.raises(ImageTooManyBytesError) as caught:
                    fetch(server)
                assert caught.value.details == {"url_host": "pictures.example.com", "bytes_max": 1000}


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"],
    ids=["endless", "huge"],
)
def test_an_endless_body_is_left_as_soon_as_it_is_too_large(head: bytes) -> None:
    """A body without end costs no more than the limit and the buffers on the way."""
    sent = 0

    def answer(connection: socket.socket, _head: bytes) -> None:
        nonlocal sent
        connection.sendall(head)
        while True:
            sent += connection.send(bytes(65_536))

    with serving(answer) as server, pytest.raises(ImageTooManyBytesError):
        fetch(server, bytes_max=100_000)
    assert sent < 20_000_000


def test_a_length_beyond_the_limit_is_believed_at_once() -> None:
    """A server that announces too much is not waited for; one that announces little may still send no more."""
    with serving(repeats(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", b"", every_s=0.05)) as server:
        started = time.monotonic()
        with pytest.raises(ImageTooManyBytesError):
            fetch(server, timeout_s=8)
        assert time.monotonic() - started < SLACK_S


def test_two_places_to_go_are_none() -> None:
    """A redirect to two places is not followed to either."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    with serving(says(answer)) as server, pytest.raises(ImageUrlFailedError):
        fetch(server)
    assert server.connections == 1


def test_broken_answers_of_every_kind() -> None:
    """Good answers with bytes changed, lost and doubled at random give bytes or an expected failure, never another."""
    seed = 20_261_124
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(seed)
    good = [
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\npic\r\n4\r\nture\r\n0\r\n\r\n",
        redirect(302, "http://other.example.com:8080/b?c"),
    ]
    answers: list[bytes] = []

    def answer(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(answers[-1])

    outcomes = collections.Counter[str]()
    with serving(answer) as server:
        fetcher = Fetcher(resolve=resolves_to(PUBLIC), network=LoopbackNetwork(server.port), timeout_s=5)
        for _ in range(1000):
            broken = bytearray(draw.choice(good))
            for _ in range(draw.randint(1, 3)):
                at = draw.randrange(len(broken))
                broken[at : at + draw.randint(0, 2)] = draw.choice(
                    [b"", bytes([draw.randrange(256)]), broken[at : at + 9]]
                )
            answers.append(bytes(broken))
            try:
                fetcher.fetch(URL, bytes_max=1000)
                outcomes["fetched"] += 1
            except (ImageUrlFailedError, ImageUrlRefusedError, ImageTooManyBytesError) as error:
                outcomes[error.code] += 1
    assert min(outcomes[kind] for kind in ("fetched", "image_url_failed", "image_url_refused")) > 10, outcomes


# When a call is over -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b""),
        (b"H", b""),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 302 Found\r\n", b"X: y\r\n"),
    ],
    ids=[
        "silence",
        "half a word",
        "headers",
        "hints",
        "drip",
        "drip to the end",
        "chunks",
        "chunk extension",
        "redirect",
    ],
)
def test_slow_servers(first: bytes, then: bytes) -> None:
    """Each byte comes in time and the whole never does: the deadline of the call ends it."""
    with serving(repeats(first, then, every_s=0.05)) as server:
        started = time.monotonic()
        with pytest.raises(ImageUrlFailedError, match=r"within 0.4 seconds"):
            fetch(server, timeout_s=0.4)
        assert 0.35 < time.monotonic() - started < 0.4 + SLACK_S


def test_redirects_share_one_deadline() -> None:
    """Three slow hops do not get three deadlines."""

    def answer(connection: socket.socket, _head: bytes) -> None:
        time.sleep(0.3)
        connection.sendall(redirect(302, "/b"))

    with serving(answer) as server:
        started = time.monotonic()
        with pytest.raises(ImageUrlFailedError, match="seconds"):
            fetch(server, timeout_s=0.5)
        assert time.monotonic() - started < 0.5 + SLACK_S
    assert server.connections == 2


def test_a_name_server_that_hangs() -> None:
    """A look-up that does not come back ends the call at its deadline, and its place is free again later."""
    free, places = threading.Event(), wire._LOOKUPS._value  # type: ignore[attr-defined]  # how many are free

    def hang(_host: str, _port: int) -> list[str]:
        free.wait(10)
        return [PUBLIC]

    with pytest.raises(ImageUrlFailedError, match=r"within 0.3 seconds"):
        Fetcher(resolve=hang, timeout_s=0.3).fetch(URL, bytes_max=1000)
    assert wire._LOOKUPS._value == places - 1  # type: ignore[attr-defined]  # as above
    free.set()
    for _ in range(100):
        if wire._LOOKUPS._value == places:  # type: ignore[attr-defined]  # as above
            break
        time.sleep(0.02)
    assert wire._LOOKUPS._value == places  # type: ignore[attr-defined]  # as above


def test_look_ups_that_hang_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls wait for dead name servers, no more look-ups than the limit are begun."""
    monkeypatch.setattr(wire, "_LOOKUPS", threading.BoundedSemaphore(2))
    free, begun = threading.Event(), itertools.count()

    def hang(_host: str, _port: int) -> list[str]:
        next(begun)
        free.wait(10)
        return [PUBLIC]

    fetcher = Fetcher(resolve=hang, timeout_s=0.2)
    for _ in range(4):
        with pytest.raises(ImageUrlFailedError):
            fetcher.fetch(URL, bytes_max=1000)
    free.set()
    assert next(begun) == 2


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "no such name"), UnicodeError("label"), OSError("down")])
def test_a_name_that_is_not_there(failure: Exception) -> None:
    """No such host, a resolver that is down or chokes: the call failed, and nothing was refused."""

    def fail(_host: str, _port: int) -> list[str]:
        raise failure

    for resolve in (fail, resolves_to()):
        with pytest.raises(ImageUrlFailedError) as caught:
            Fetcher(resolve=resolve).fetch(URL, bytes_max=1000)
        assert caught.value.details == {"url_host": "pictures.example.com"}


def test_no_connection() -> None:
    """A port where nobody listens is a failure that does not tell why."""
    with serving(says()) as server:
        port = server.port
    with pytest.raises(ImageUrlFailedError):
        Fetcher(resolve=resolves_to(PUBLIC), network=LoopbackNetwork(port)).fetch(URL, bytes_max=1000)


def test_nothing_is_left_behind() -> None:
    """Good, refused, slow and endless calls leave no thread and no open connection."""
    with serving(repeats(b"HTTP/1.1 200 OK\r\n\r\n", b"x", every_s=0.02)) as server:
        before = threading.active_count()
        for _ in range(5):
            with pytest.raises(ImageUrlFailedError):
                fetch(server, timeout_s=0.1)
            with pytest.raises(ImageTooManyBytesError):
                fetch(server, bytes_max=1)
        # The server's own threads end when they find their connection closed: the last proof that it is.
        for _ in range(200):
            if threading.active_count() <= before:
                break
            time.sleep(0.02)
        assert threading.active_count() <= before


# TLS -----------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> ssl.SSLContext:
    """What trusts the tests' own authority only."""
    return ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")


@pytest.fixture
def names() -> list[str | None]:
    """The names that callers asked the server for."""
    return []


@pytest.fixture
def tls_server(names: list[str | None]) -> Iterator[Server]:
    """A server with the certificate of pictures.example.com; `/down` redirects to http."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem")
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    def answer(connection: socket.socket, head: bytes) -> None:
        down, across = redirect(302, "http://pictures.example.com/"), redirect(302, "https://pictures.example.com/")
        connection.sendall(down if b"/down" in head else across if b"/across" in head else ok(b"picture"))

    with serving(answer, context) as server:
        yield server


def test_the_certificate_is_that_of_the_name(
    tls_server: Server, authority: ssl.SSLContext, names: list[str | None]
) -> None:
    """The checked address is dialled, while SNI, certificate and `Host` are those of the name."""
    network = LoopbackNetwork(tls_server.port)
    fetcher = Fetcher(resolve=resolves_to(PUBLIC), network=network, ssl_context=authority)
    assert fetcher.fetch("https://pictures.example.com/across", bytes_max=1000).data == b"picture"
    assert network.dialled == [(PUBLIC, 443)] * 2
    assert names == ["pictures.example.com"] * 2
    assert b"Host: pictures.example.com\r\n" in tls_server.requests[0]


def test_another_name_s_certificate_and_unknown_authorities(tls_server: Server, authority: ssl.SSLContext) -> None:
    """A certificate for another name, for an IP address, or of an unknown authority: nothing is sent to its server."""
    for url, context in (
        ("https://other.example.com/", authority),
        (f"https://{PUBLIC}/", authority),
        ("https://pictures.example.com/", None),
    ):
        fetcher = Fetcher(resolve=resolves_to(PUBLIC), network=LoopbackNetwork(tls_server.port), ssl_context=context)
        with pytest.raises(ImageUrlFailedError, match="certificate"):
            fetcher.fetch(url, bytes_max=1000)
    assert tls_server.requests == []


def test_https_never_becomes_http(tls_server: Server, authority: ssl.SSLContext) -> None:
    """A redirect from https to http is refused; the other way round is followed."""
    network = LoopbackNetwork(tls_server.port)
    fetcher = Fetcher(resolve=resolves_to(PUBLIC), network=network, ssl_context=authority)
    with pytest.raises(ImageUrlRefusedError, match="https to http"):
        fetcher.fetch("https://pictures.example.com/down", bytes_max=1000)
    assert network.dialled == [(PUBLIC, 443)]
    ports = iter([0, tls_server.port])

    class Upwards(LoopbackNetwork):
        def connect_tcp(self, host: str, port: int, **options: object) -> object:  # type: ignore[override]  # a test's double
            self._port = next(ports) or plain.port
            return super().connect_tcp(host, port, **options)

    with serving(says(redirect(301, "https://pictures.example.com/"))) as plain:
        up = Fetcher(resolve=resolves_to(PUBLIC), network=Upwards(0), ssl_context=authority)
        assert up.fetch("http://pictures.example.com/", bytes_max=1000).data == b"picture"


def test_a_slow_handshake() -> None:
    """A server that accepts and never shakes hands is left at the deadline."""
    with serving(repeats(b"", b"", every_s=0.05)) as server:
        started = time.monotonic()
        with pytest.raises(ImageUrlFailedError, match="seconds"):
            fetch(server, "https://pictures.example.com/", timeout_s=0.3)
        assert time.monotonic() - started < 0.3 + SLACK_S


# Webhooks ------------------------------------------------------------------------------------------


def poster(server: Server) -> Fetcher:
    """What posts to a server on loopback as if it were public."""
    return Fetcher(resolve=resolves_to(PUBLIC), network=LoopbackNetwork(server.port))


def test_what_a_receiver_is_told() -> None:
    """The body and the headers as they were given, byte by byte, and the status as the answer."""
    with serving(says(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok")) as server:
        body = b'{"a":"\xc3\xa9"}'
        assert poster(server).post(URL, body, {"Content-Type": "application/json", "webhook-id": "msg_1"}) == 202
    assert server.requests[0].startswith(b"POST /a.jpg HTTP/1.1\r\nHost: pictures.example.com\r\n")
    for line in (b"Content-Type: application/json", b"webhook-id: msg_1", b"Content-Length: 10"):
        assert line + b"\r\n" in server.requests[0]


@pytest.mark.parametrize("status", [200, 204, 301, 400, 410, 429, 500])
def test_every_status_is_an_answer(status: int) -> None:
    """Whatever the receiver says is said to the caller, who decides when to try again."""
    with serving(says(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())) as server:
        assert poster(server).post(URL, b"{}", {}) == status


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200"])
def test_no_answer(answer: bytes) -> None:
    """A receiver that hangs up or talks garbage gave no status."""
    with serving(says(answer)) as server:
        assert poster(server).post(URL, b"{}", {}) is None


def test_slow_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dripping answers are left at the deadline; those that came to say a status have said it."""
    monkeypatch.setattr(fetch_module, "WEBHOOK_TIMEOUT_S", 0.4)
    with serving(repeats(b"HTTP/1.1 200 OK\r\n\r\n", b"x", every_s=0.05)) as server:
        assert poster(server).post(URL, b"{}", {}) == 200
    with serving(repeats(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", every_s=0.05)) as server:
        assert poster(server).post(URL, b"{}", {}) is None


def test_a_receiver_that_never_stops_talking() -> None:
    """Of an answer no more than 64 KiB are read, and its status counts."""
    sent = 0

    def answer(connection: socket.socket, _head: bytes) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += connection.send(bytes(65_536))

    with serving(answer) as server:
        assert poster(server).post(URL, b"{}", {}) == 200
    assert sent < 20_000_000


def test_a_receiver_that_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is taken drop by drop ends at the deadline too."""
    monkeypatch.setattr(fetch_module, "WEBHOOK_TIMEOUT_S", 0.5)

    def sip(connection: socket.socket, _head: bytes) -> None:
        while connection.recv(200_000):
            time.sleep(0.05)

    with serving(sip) as server:
        started = time.monotonic()
        assert poster(server).post(URL, bytes(40_000_000), {}) is None
        assert time.monotonic() - started < 0.5 + SLACK_S


def test_a_webhook_s_address_is_checked_when_it_is_given_and_when_it_is_called() -> None:
    """Good then and bad now is refused now; a name that is not there yet may be given, and has no answer."""
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    fetcher = Fetcher(resolve=lambda _host, _port: next(answers))
    fetcher.check_webhook_url(URL)
    with pytest.raises(WebhookUrlRefusedError) as caught:
        fetcher.post(URL, b"{}", {})
    assert caught.value.details == {"url_host": "pictures.example.com"}
    nobody = Fetcher(resolve=resolves_to())
    nobody.check_webhook_url(URL)
    assert nobody.post(URL, b"{}", {}) is None
