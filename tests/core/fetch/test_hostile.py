"""Hostile addresses: none of them is fetched. A canary on loopback counts who comes, and nobody may."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable

import httpx
import pytest

from core.errors import ImageTooManyBytesError, ImageUrlFailedError, ImageUrlRefusedError, WebhookUrlRefusedError
from core.fetch import addresses
from core.fetch.fetch import Fetcher
from tests.core.fetch.hostile import HOSTILE
from tests.core.fetch.servers import PUBLIC, PUBLIC_V6, LoopbackNetwork, Server, redirect, resolves_to, says, serving


def test_the_list_is_long_and_has_no_address_twice() -> None:
    """More than 60 different hostile addresses."""
    assert len(set(HOSTILE)) == len(HOSTILE) > 100


@pytest.mark.parametrize("url", HOSTILE)
def test_no_hostile_address_is_fetched(url: str, canary: Server, to_canary: LoopbackNetwork) -> None:
    """Refused with a sentence although the name is said to be public and every dial would lead to the canary."""
    fetcher = Fetcher(resolve=resolves_to(PUBLIC), network=to_canary)
    for port in ("", ":80", ":8080"):
        with pytest.raises(ImageUrlRefusedError) as caught:
            fetcher.fetch(url.replace("{port}", port), bytes_max=1000)
        assert caught.value.message.endswith(".")
        with pytest.raises(WebhookUrlRefusedError):
            fetcher.post(url.replace("{port}", port), b"{}", {})
        with pytest.raises(WebhookUrlRefusedError):
            fetcher.check_webhook_url(url.replace("{port}", port))
    assert (to_canary.dialled, canary.connections) == ([], 0)


@pytest.mark.parametrize("url", HOSTILE)
def test_nor_by_the_system_s_own_resolver_and_network(
    url: str, canary: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on the real network of this machine, with the canary's port among those that are called."""
    monkeypatch.setattr(addresses, "PORTS", addresses.PORTS | {canary.port})
    with pytest.raises((ImageUrlRefusedError, ImageUrlFailedError)):
        Fetcher(timeout_s=2).fetch(url.replace("{port}", f":{canary.port}"), bytes_max=1000)
    assert canary.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1{port}/",
        "http://localhost{port}/",
        "http://2130706433{port}/",
        "http://user:password@127.0.0.1{port}/",
    ],
)
def test_a_naive_call_reaches_the_canary(url: str, canary: Server) -> None:
    """Control: without the guard the canary hears of it."""
    with httpx.Client(trust_env=False) as client:
        assert client.get(url.replace("{port}", f":{canary.port}")).content == b"secret of the house"
    assert canary.connections == 1


# Names that lead inside ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        ("127.0.0.1",),
        ("10.0.0.1",),
        ("169.254.169.254",),
        ("::1",),
        ("::ffff:127.0.0.1",),
        ("fe80::1%lo",),
        ("0.0.0.0",),
        (PUBLIC, "127.0.0.1"),
        ("127.0.0.1", PUBLIC),
        (PUBLIC, PUBLIC_V6, "::1"),
        (PUBLIC, "64:ff9b::7f00:1"),
    ],
    ids=",".join,
)
@pytest.mark.parametrize("host", ["example.com", "127.0.0.1.nip.io", "wiki.corp.example.com"])
def test_a_name_that_leads_inside(
    host: str, answers: tuple[str, ...], canary: Server, to_canary: LoopbackNetwork
) -> None:
    """One answer that is not public refuses the name, wherever it stands, and the error does not say it."""
    fetcher = Fetcher(resolve=resolves_to(*answers), network=to_canary)
    with pytest.raises(ImageUrlRefusedError) as caught:
        fetcher.fetch(f"http://{host}/", bytes_max=1000)
    assert caught.value.details == {"url_host": host}
    assert not any(answer in caught.value.message for answer in answers)
    with pytest.raises(WebhookUrlRefusedError):
        fetcher.post(f"http://{host}/", b"{}", {})
    with pytest.raises(WebhookUrlRefusedError):
        fetcher.check_webhook_url(f"http://{host}/")
    assert (to_canary.dialled, canary.connections) == ([], 0)


def rebinding() -> Callable[[str, int], list[str]]:
    """A name that is public when it is asked for the first time, and this machine ever after."""
    answers = itertools.chain([[PUBLIC]], itertools.repeat(["127.0.0.1"]))
    return lambda _host, _port: next(answers)


def test_a_name_that_changes_between_check_and_use() -> None:
    """A name is asked for once: what was checked is what is dialled, and the second answer is never seen."""
    with serving(says(b"HTTP/1.1 200 OK\r\n\r\npicture")) as server:
        network = LoopbackNetwork(server.port)
        fetched = Fetcher(resolve=rebinding(), network=network).fetch("http://example.com/", bytes_max=1000)
    assert fetched.data == b"picture"
    assert network.dialled == [(PUBLIC, 80)]


def test_a_name_that_changes_before_a_redirect_to_itself() -> None:
    """Each hop is looked up and checked again: the second, now inside, is not dialled."""
    with serving(says(redirect(302, "/again"))) as server:
        network = LoopbackNetwork(server.port)
        with pytest.raises(ImageUrlRefusedError):
            Fetcher(resolve=rebinding(), network=network).fetch("http://example.com/", bytes_max=1000)
    assert network.dialled == [(PUBLIC, 80)]


def test_a_naive_check_is_fooled_by_a_name_that_changes(canary: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: looked up once to check and once more to call, the same name leads to the canary."""
    answers, look_up = rebinding(), socket.getaddrinfo
    assert answers("example.com", 80) == [PUBLIC]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, *a, **k: look_up(answers(host, port)[0], port, *a, **k)
    )
    with httpx.Client(trust_env=False) as client:
        client.get(f"http://example.com:{canary.port}/")
    assert canary.connections == 1


# Redirects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1{port}/",
        "//127.0.0.1{port}/",
        "http://2130706433{port}/",
        "http://[::ffff:7f00:1]{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost{port}/",
        "http://user@127.0.0.1{port}/",
        "http://example.com@127.0.0.1{port}/",
        "http://inside.example.com{port}/",
        "/\\127.0.0.1{port}/",
        "http://example.com:22/",
        "file:///etc/passwd",
        "gopher://127.0.0.1{port}/",
        "ftp://example.com/",
        "data:image/png,x",
        "javascript:alert(1)",
        "http://127.0.0.1{port}/\u00e9",
        "http://exa\tmple.com/",
        "http://[broken/",
    ],
)
def test_a_redirect_to_where_nobody_goes(
    status: int, location: str, canary: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect is checked as a new address; the first hop alone is dialled, and the error names only that one."""
    monkeypatch.setattr(addresses, "PORTS", addresses.PORTS | {canary.port})
    inside = {"inside.example.com": ["127.0.0.1"]}
    with serving(says(redirect(status, location.replace("{port}", f":{canary.port}")))) as server:
        network = LoopbackNetwork(server.port)
        fetcher = Fetcher(resolve=lambda host, _port: inside.get(host, [PUBLIC]), network=network)
        with pytest.raises(ImageUrlRefusedError) as caught:
            fetcher.fetch("http://example.com/", bytes_max=1000)
    assert caught.value.details == {"url_host": "example.com"}
    assert caught.value.message == "The address redirects to one that is not called: give the picture's own address."
    assert (network.dialled, canary.connections) == ([(PUBLIC, 80)], 0)


def test_a_naive_call_follows_the_redirect_to_the_canary(canary: Server) -> None:
    """Control: a client that follows redirects without checking them reaches the canary."""
    with (
        serving(says(redirect(302, f"http://127.0.0.1:{canary.port}/"))) as server,
        httpx.Client(trust_env=False, follow_redirects=True) as client,
    ):
        client.get(f"http://127.0.0.1:{server.port}/")
    assert canary.connections == 1


@pytest.mark.parametrize("locations", [["/b"] * 9, ["http://example.org/"] * 9, ["?a", "?b", "?c", "?d"]], ids=str)
def test_redirects_without_end(locations: list[str]) -> None:
    """Loops and chains end after three redirects, however they go on."""
    following = iter(locations)
    with serving(lambda connection, _head: connection.sendall(redirect(307, next(following)))) as server:
        network = LoopbackNetwork(server.port)
        with pytest.raises(ImageUrlFailedError, match="more than 3 times"):
            Fetcher(resolve=resolves_to(PUBLIC), network=network).fetch("http://example.com/a", bytes_max=1000)
    assert len(network.dialled) == 4


def test_a_chain_that_ends_inside(canary: Server) -> None:
    """Two good hops do not make a third one good."""
    following = iter(["http://example.org/", "//example.net/x", "http://127.0.0.1/"])
    with serving(lambda connection, _head: connection.sendall(redirect(302, next(following)))) as server:
        network = LoopbackNetwork(server.port)
        with pytest.raises(ImageUrlRefusedError):
            Fetcher(resolve=resolves_to(PUBLIC), network=network).fetch("http://example.com/", bytes_max=1000)
    assert (len(network.dialled), canary.connections) == (3, 0)


def test_a_webhook_follows_no_redirect(canary: Server) -> None:
    """A redirect is the answer to a webhook and is not gone after, good or bad."""
    for location in ("http://example.org/", f"http://127.0.0.1:{canary.port}/"):
        with serving(says(redirect(307, location))) as server:
            network = LoopbackNetwork(server.port)
            assert Fetcher(resolve=resolves_to(PUBLIC), network=network).post("http://example.com/", b"{}", {}) == 307
        assert (len(network.dialled), canary.connections) == (1, 0)


def test_proxies_of_the_environment_are_not_used(canary: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would dial for us, and look names up itself: none is asked."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    with serving(says(b"HTTP/1.1 200 OK\r\n\r\npicture")) as server:
        network = LoopbackNetwork(server.port)
        Fetcher(resolve=resolves_to(PUBLIC), network=network).fetch("http://example.com/", bytes_max=1000)
    assert (network.dialled, canary.connections) == ([(PUBLIC, 80)], 0)


def test_all_refusals_are_expected_failures() -> None:
    """What a caller must catch is these three, each with its own code."""
    codes = {error.code for error in (ImageUrlRefusedError, ImageUrlFailedError, ImageTooManyBytesError)}
    assert codes == {"image_url_refused", "image_url_failed", "image_too_many_bytes"}
