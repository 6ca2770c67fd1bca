"""Which addresses may be called: the URL that a stranger gives, and the IP addresses that its name leads to.

A URL is taken apart here, once and strictly; what is called is built from the parts (`Target`), so no second parser
can understand it differently.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote

import idna

from core.errors import ConfigError, ImageUrlRefusedError, WebhookUrlRefusedError
from core.fetch.networks import IPAddress, IPNetwork, is_in, is_own, is_public

URL_CHARACTERS_MAX = 2048
# Where web servers listen; every other port is somebody's database or mail server.
PORTS = frozenset({80, 443, 8080, 8443})
_HOST_CHARACTERS_MAX = 253

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^/?#:@\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?(?P<fragment>#.*)?",
    re.IGNORECASE | re.ASCII,  # else the long s of httpſ is an s
)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# As the WHATWG's URL standard tells an IPv4 address from a name: by its last part.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# What only means something inside a network, so that nobody outside can be meant.
_INNER_NAMES = ("localhost", "local", "localdomain", "internal", "intranet", "lan", "home", "corp", "private")
_INNER_DOMAINS = ("home.arpa",)

UrlRefused = type[ImageUrlRefusedError] | type[WebhookUrlRefusedError]


class NotCalledError(Exception):
    """Why an address is not called, as a sentence for whoever gave it."""


@dataclass(frozen=True)
class AllowedHosts:
    """What an operator lets be called although it is not public: names (each on one port or on all) and networks."""

    names: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[IPNetwork, ...] = ()

    def name(self, host: str, port: int) -> bool:
        """Whether the operator named this host, on this port."""
        return (host, None) in self.names or (host, port) in self.names


@dataclass(frozen=True)
class Target:
    """One address to call, taken apart. `host` is an ASCII name or the text of `ip`; `path` holds the query too."""

    scheme: str
    host: str
    port: int
    path: str
    ip: IPAddress | None
    is_named: bool

    @property
    def host_header(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if isinstance(self.ip, IPv6Address) else self.host
        return host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address, written in the one way that cannot be misread."""
        return f"{self.scheme}://{self.host_header}{self.path}"


def parse_allowed_hosts(text: str) -> AllowedHosts:
    """Read `VISIONMETER_FETCH_ALLOWED_HOSTS`: comma-separated `host`, `host:port` or CIDR. Raises `ConfigError`."""
    names: set[tuple[str, int | None]] = set()
    networks: list[IPNetwork] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            if "/" in item:
                networks.append(ip_network(item))
            elif item.count(":") > 1 and not item.startswith("["):
                names.add((str(IPv6Address(item)), None))
            else:
                match = _URL.fullmatch(f"http://{item}")
                if match is None or match["target"] or match["fragment"]:
                    raise ValueError
                host, _ip = _read_host(match["host"])
                names.add((host, _read_port(match["port"]) if match["port"] else None))
        except (ValueError, NotCalledError):
            raise ConfigError(
                f"VISIONMETER_FETCH_ALLOWED_HOSTS: {item!r} is no host, no host:port and no network such as 10.1.0.0/16"
            ) from None
    return AllowedHosts(frozenset(names), tuple(networks))


def check_url(url: str, allowed: AllowedHosts, refused: UrlRefused = ImageUrlRefusedError) -> Target:
    """Take an address apart; nothing is looked up or called. Raises `refused` with the next step."""
    try:
        return parse_url(url, allowed)
    except NotCalledError as error:
        raise refused(str(error)) from None


def parse_url(url: str, allowed: AllowedHosts) -> Target:
    """As `check_url`, for the address of a redirect too. Raises `NotCalledError`."""
    if len(url) > URL_CHARACTERS_MAX:
        raise NotCalledError(f"The address has more than {URL_CHARACTERS_MAX} characters: give a shorter one.")
    if any(character == "\\" or unicodedata.category(character)[0] in "CZ" for character in url):
        raise NotCalledError(
            "The address holds a space, a backslash or an invisible character: write it percent-encoded, as %20."
        )
    match = _URL.fullmatch(url)
    if match is None:
        raise NotCalledError(_why_no_url(url))
    if match["fragment"] and not match["target"]:
        raise NotCalledError(
            "The address has a # right behind its host: write a path between the two, or leave it out."
        )
    scheme = match["scheme"].lower()
    host, ip = _read_host(match["host"])
    port = _read_port(match["port"]) if match["port"] else _default_port(scheme)
    path = quote(match["target"] or "/", safe="%/?:@!$&'()*+,;=-._~[]|")
    target = Target(scheme, host, port, path if path[0] == "/" else f"/{path}", ip, allowed.name(host, port))
    if ip is not None:
        judge(target, [host], allowed)
    elif not target.is_named and _is_inner(host):
        raise NotCalledError(_NOT_PUBLIC)
    if port not in PORTS and not target.is_named and not (ip is not None and is_in(ip, allowed.networks)):
        raise NotCalledError(f"Port {port} is not called: use 80, 443, 8080 or 8443, or ask the operator to allow it.")
    return target


def judge(target: Target, answers: Sequence[str], allowed: AllowedHosts) -> list[IPAddress]:
    """The IP addresses of a target, each of which may be called. One that may not refuses all. Raises `NotCalledError`.

    A name with a public and a private address is no accident that could be picked apart: it is a trap.
    """
    addresses: list[IPAddress] = []
    for answer in answers:
        try:
            ip = ip_address(answer)
        except ValueError:
            raise NotCalledError(_NOT_PUBLIC) from None
        if not (is_public(ip) or is_in(ip, allowed.networks) or (target.is_named and is_own(ip))):
            raise NotCalledError(_NOT_PUBLIC)
        if ip not in addresses:
            addresses.append(ip)
    return addresses


_NOT_PUBLIC = (
    "The address leads to a machine that is not on the public internet: give a public one, or ask the operator to "
    "allow the host."
)


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _why_no_url(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return "Only addresses that begin with https:// or http:// are called: give one of those."
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        return "The address holds a user name or a password: give one that needs none."
    return "The address names no host in the usual form, such as https://example.com/picture.jpg: write it so."


def _read_port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65_535:
        raise NotCalledError("The port of the address is no number from 1 to 65535: correct it.")
    return port


def _read_host(text: str) -> tuple[str, IPAddress | None]:
    """The host as an ASCII name, or an IP address and its usual text."""
    if text.startswith("["):
        try:
            ip: IPAddress = IPv6Address(text[1:-1])
        except AddressValueError:
            raise NotCalledError(
                "The address holds no correct IPv6 address between its brackets: correct it."
            ) from None
        return str(ip), ip
    host = _ascii_name(text)
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # 2130706433, 0x7f.1 or 017700000001 mean 127.0.0.1 to many a resolver, and something else to others.
        try:
            return host, IPv4Address(host)
        except AddressValueError:
            raise NotCalledError(
                "The IP address is not written as four decimal numbers, such as 93.184.216.34: write it so."
            ) from None
    if len(host) > _HOST_CHARACTERS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise NotCalledError("The address names no host in the usual form, such as example.com: write it so.")
    return host, None


def _ascii_name(text: str) -> str:
    if len(text) > _HOST_CHARACTERS_MAX + 1:
        raise NotCalledError("The host of the address is longer than any name can be: correct it.")
    name = text.lower()
    if not name.isascii():
        try:
            name = idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
        except UnicodeError:  # which idna's own error is, too
            raise NotCalledError("The host of the address is no name that can be looked up: correct it.") from None
    return name.removesuffix(".")


def _is_inner(host: str) -> bool:
    last = host.rpartition(".")[2]
    return "." not in host or last in _INNER_NAMES or host.endswith(tuple(f".{domain}" for domain in _INNER_DOMAINS))
