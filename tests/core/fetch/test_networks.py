"""Which IP addresses are on the public internet."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from core.fetch.networks import is_own, is_public

NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.9 192.0.0.192
192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::2 ::127.0.0.1 ::93.184.216.34 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:93.184.216.34 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::5db8:d822 64:ff9b:1::7f00:1 100::1 2001::1 2001:0:7f00:1:: 2001:2::1 2001:10::1 2001:20::1
2001:db8::1 2002:7f00:1:: 2002:5db8:d822:: 3ffe::1 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1
fe80::1%eth0 2606:4700::1111%eth0 fec0::1 ff02::1 2606:4700::5efe:7f00:1 2606:4700::200:5efe:a00:1
"""
PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.216.34 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 169.253.1.1
169.255.0.1 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
2001:200::1 2001:4860:4860::8888 2003::1 2400:cb00::1 2606:4700::1111 2a00:1450::1
"""


@pytest.mark.parametrize("text", NOT_PUBLIC.split())
def test_special_addresses_are_not_public(text: str) -> None:
    """Each range that is private, special or another address in disguise is told from the public internet."""
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC.split())
def test_ordinary_addresses_are_public(text: str) -> None:
    """Neighbours of each special range, and real servers, are public."""
    assert is_public(ip_address(text))


def test_every_disguise_of_every_ipv4_address_is_refused() -> None:
    """No IPv4 address, private or public, is public in a form of IPv6 that embeds it."""
    seed = 4
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    chance = random.Random(seed)
    for value in (chance.getrandbits(32) for _ in range(500)):
        v4 = int(IPv4Address(value))
        for prefix, shift in (
            ("::", 0),
            ("::ffff:0:0", 0),
            ("64:ff9b::", 0),
            ("64:ff9b:1::", 0),
            ("2002::", 80),
            ("2001::", 0),
            ("2606:4700::5efe:0:0", 0),
        ):
            assert not is_public(IPv6Address(int(IPv6Address(prefix)) | v4 << shift)), (prefix, v4)


@pytest.mark.parametrize("text", ["10.1.2.3", "127.0.0.1", "192.168.1.1", "172.20.0.1", "100.64.0.1", "::1", "fd12::1"])
def test_own_addresses(text: str) -> None:
    """A name that the operator allows may lead to this machine and to private networks."""
    assert is_own(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd20:ce::254",
        "0.0.0.0",
        "224.0.0.1",
        "fe80::1",
        "fd12::1%1",
    ],
)
def test_credentials_of_a_cloud_are_nobodys_own(text: str) -> None:
    """Not even an allowed name leads to a metadata service, to link-local or to special addresses."""
    assert not is_own(ip_address(text))


def test_no_network_of_the_iana_registry_is_left_out() -> None:
    """First and last address of every entry of the special-purpose registries that is not globally reachable."""
    registry = """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
        192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 ::1/128 ::/128
        ::ffff:0:0/96 64:ff9b:1::/48 100::/64 2001::/23 2001:2::/48 2001:db8::/32 2001:10::/28 2002::/16 3fff::/20
        5f00::/16 fc00::/7 fe80::/10"""
    for network in map(ip_network, registry.split()):
        assert not is_public(network[0]), network
        assert not is_public(network[-1]), network
