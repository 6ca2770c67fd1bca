"""Which IP addresses are machines on the public internet, and which own ones an operator may open.

Written out from the IANA registries of special-purpose addresses (RFC 6890 and its updates) and not left to
`ipaddress.is_global` alone, whose tables differ between releases of Python.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(text) for text in texts)


_NOT_PUBLIC_V4 = _networks(
    "0.0.0.0/8",  # this network; 0.0.0.0 is this machine on many systems
    "10.0.0.0/8",
    "100.64.0.0/10",  # carrier-grade NAT, and the metadata service of one cloud
    "127.0.0.0/8",
    "168.63.129.16/32",  # a cloud's own services under an address that looks public
    "169.254.0.0/16",  # link-local, and the metadata services of most clouds
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, broadcast
)
# All that is public in IPv6 today. Outside are loopback, link-local, site-local, multicast, and what embeds an IPv4
# address: ::ffff:0:0/96 (mapped), ::/96 (compatible), 64:ff9b::/96 and 64:ff9b:1::/48 (NAT64).
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = _networks(
    "2001::/23",  # protocol assignments: Teredo (embeds IPv4), benchmarks, ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4 (embeds IPv4)
    "3ffe::/16",  # the former test network
    "3fff::/20",  # documentation
)
# ISATAP (RFC 5214) embeds an IPv4 address behind these four bytes, under any prefix.
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")

_OWN = _networks("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
# Where clouds hand out credentials to whoever asks from inside.
_METADATA = _networks("100.100.100.200/32", "fd00:ec2::254/128", "fd20:ce::254/128")


def is_public(ip: IPAddress) -> bool:
    """Whether an address is a machine on the public internet, and neither special, nor ours, nor another's disguise."""
    if not ip.is_global:
        return False
    if isinstance(ip, IPv4Address):
        return not is_in(ip, _NOT_PUBLIC_V4)
    return (
        ip.scope_id is None and ip in _UNICAST_V6 and not is_in(ip, _NOT_PUBLIC_V6) and ip.packed[8:12] not in _ISATAP
    )


def is_own(ip: IPAddress) -> bool:
    """Whether an address is of a private network or this machine, and hands out no credentials of a cloud.

    Link-local and special addresses are not among them: no name that an operator allows leads there.
    """
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        return False
    return is_in(ip, _OWN) and not is_in(ip, _METADATA)


def is_in(ip: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    """Whether an address is in one of the networks; one of the other family never is."""
    return any(ip.version == network.version and ip in network for network in networks)
