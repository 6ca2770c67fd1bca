"""An address is taken apart in one strict way, and the operator's list opens what it names and no more."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, ImageUrlRefusedError, WebhookUrlRefusedError
from core.fetch.addresses import AllowedHosts, NotCalledError, check_url, judge, parse_allowed_hosts

NOBODY = AllowedHosts()
# What addresses are made of, and what confuses their readers.
PIECES = [
    *(
        "http",
        "https",
        "://",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "#",
        "?",
        ".",
        "[",
        "]",
        "::",
        "%",
        "-",
        "80",
        "127.0.0.1",
        "0x7f",
    ),
    *("localhost", "example", "com", "xn--", "。", "ß", "İ", "ſ", "\t", " ", "\u200d", "\ud800"),
]


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://Example.COM/A.jpg", "https://example.com/A.jpg"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("https://example.com:443/a", "https://example.com/a"),
        ("https://example.com:8443/a?b=c&d=%20#part", "https://example.com:8443/a?b=c&d=%20"),
        ("https://example.com?b=c", "https://example.com/?b=c"),
        ("https://example.com./a", "https://example.com/a"),
        ("https://my_bucket.example.com/@user/a", "https://my_bucket.example.com/@user/a"),
        ("https://bücher.example/é?ü", "https://xn--bcher-kva.example/%C3%A9?%C3%BC"),
        ("https://BÜCHER。example/", "https://xn--bcher-kva.example/"),
        ("https://深圳.example/图", "https://xn--fes124c.example/%E5%9B%BE"),
        ("http://93.184.216.34/a", "http://93.184.216.34/a"),
        ("http://[2606:4700:0::1111]:8080/a", "http://[2606:4700::1111]:8080/a"),
        ("https://example.com/?next=http://127.0.0.1/", "https://example.com/?next=http://127.0.0.1/"),
        ("https://example.com/'\"<>", "https://example.com/'%22%3C%3E"),
    ],
)
def test_what_is_called(url: str, called: str) -> None:
    """Ordinary addresses are called in one spelling: lower-case ASCII host, no usual port, no fragment, ASCII path."""
    assert check_url(url, NOBODY).url == called


def test_lengths_at_their_limits() -> None:
    """2,048 characters, a host of 253 and a label of 63 pass; one more of each does not."""
    start = "https://example.com/"
    assert check_url(start + "a" * (2048 - len(start)), NOBODY)
    label, host = "a" * 63, ".".join(["a" * 61] * 4)
    assert len(f"{host}.aaaaa") == 253
    assert check_url(f"https://{label}.com/", NOBODY)
    assert check_url(f"https://{host}.aaaaa/", NOBODY)
    for url in (start + "a" * (2049 - len(start)), f"https://{label}a.com/", f"https://{host}.aaaaaa/"):
        with pytest.raises(ImageUrlRefusedError):
            check_url(url, NOBODY)


def test_a_refusal_is_a_sentence_of_the_caller_s_kind() -> None:
    """A webhook's address is refused as such, and what is said ends a sentence and names no inner address."""
    for url in ("file:///etc/passwd", "http://127.0.0.1/", "http://u:p@example.com/", "https://example.com:22/"):
        with pytest.raises(WebhookUrlRefusedError) as caught:
            check_url(url, NOBODY, WebhookUrlRefusedError)
        assert caught.value.message.endswith(".")
        assert "127" not in caught.value.message


@settings(max_examples=400, derandomize=True, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(PIECES),
            st.text(max_size=3),
        ),
        max_size=9,
    ).map("".join),
    st.sampled_from(["", "http://", "https://", "http://example.com"]),
)
def test_no_parser_reads_the_called_address_differently(text: str, start: str) -> None:
    """Whatever is given is refused, or is called in a form whose host and port two other parsers read as we do."""
    try:
        target = check_url(start + text, NOBODY)
    except ImageUrlRefusedError:
        return
    assert target.url.isascii()
    assert target.url.isprintable()
    for host, port in (
        (httpx.URL(target.url).raw_host.decode(), httpx.URL(target.url).port),
        (urlsplit(target.url).hostname, urlsplit(target.url).port),
    ):
        assert (host, port or (443 if target.scheme == "https" else 80)) == (target.host, target.port)
    assert check_url(target.url, NOBODY) == target


# The operator's list -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("cameras.lan", "http://cameras.lan:9000/a"),
        ("cameras.lan", "https://CAMERAS.lan./a"),
        ("cameras.lan:9000", "http://cameras.lan:9000/a"),
        ("localhost", "http://localhost:5000/"),
        ("bücher.example:81", "http://xn--bcher-kva.example:81/"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/"),
        ("10.1.0.0/16", "http://10.1.255.255:9000/"),
        ("fd12::/16", "http://[fd12::1]:9000/"),
        ("::1", "http://[::1]:9000/"),
        ("[::1]:9000", "http://[0:0::1]:9000/"),
        (" a.lan , b.lan:1 ,, 10.0.0.0/8 ", "http://b.lan:1/"),
        ("169.254.169.254/32", "http://169.254.169.254/"),
    ],
)
def test_what_the_operator_names_is_called(allowed: str, url: str) -> None:
    """A host on any port or on one, an address, a network: each opens what it names."""
    assert check_url(url, parse_allowed_hosts(allowed))


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("cameras.lan:9000", "http://cameras.lan/"),
        ("cameras.lan:9000", "http://cameras.lan:9001/"),
        ("cameras.lan", "http://x.cameras.lan/"),
        ("cameras.lan", "http://cameras.lan.localhost/"),
        ("127.0.0.1:5000", "http://127.0.0.1:5001/"),
        ("127.0.0.1", "http://127.0.0.2/"),
        ("127.0.0.1", "http://2130706433/"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/"),
        ("10.1.0.0/16", "http://10.2.0.1/"),
        ("10.1.0.0/16", "http://[::ffff:10.1.0.1]/"),
        ("fd12::/16", "http://[fd12::1%25eth0]/"),
        ("169.254.169.254", "http://169.254.169.254/"),
        ("0.0.0.0", "http://0.0.0.0/"),
    ],
)
def test_what_the_operator_does_not_name_stays_closed(allowed: str, url: str) -> None:
    """Another port, a name below, another spelling, a metadata service without its network: refused."""
    with pytest.raises(ImageUrlRefusedError):
        check_url(url, parse_allowed_hosts(allowed))


@pytest.mark.parametrize(
    "text",
    ["a b", "http://a.lan", "a.lan:0", "a.lan:99999", "a.lan:x", "10.0.0.1/8", "a.lan/b", "u@a.lan", "0x7f.1", "::1::"],
)
def test_a_list_that_cannot_be_read_is_named(text: str) -> None:
    """An entry that means nothing stops the start with the setting's name, and opens nothing by accident."""
    with pytest.raises(ConfigError, match="VISIONMETER_FETCH_ALLOWED_HOSTS"):
        parse_allowed_hosts(text)


def test_answers_are_judged_all_together() -> None:
    """One private answer among public ones refuses all, in any place; an allowed network or name lets them pass."""
    stranger = check_url("http://example.com/", NOBODY)
    assert [str(ip) for ip in judge(stranger, ["1.1.1.1", "1.1.1.1", "2606:4700::1111"], NOBODY)] == [
        "1.1.1.1",
        "2606:4700::1111",
    ]
    for answers in (
        ["1.1.1.1", "10.0.0.1"],
        ["10.0.0.1", "1.1.1.1"],
        ["fe80::1%2"],
        ["::ffff:1.1.1.1"],
        ["no address"],
    ):
        with pytest.raises(NotCalledError):
            judge(stranger, answers, NOBODY)
    assert judge(stranger, ["1.1.1.1", "10.0.0.1"], parse_allowed_hosts("10.0.0.0/24"))
    named = parse_allowed_hosts("example.com")
    assert judge(check_url("http://example.com/", named), ["10.0.0.1"], named)
    with pytest.raises(NotCalledError):
        judge(check_url("http://example.com/", named), ["169.254.169.254"], named)
