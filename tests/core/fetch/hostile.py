"""Addresses by which strangers try to reach what is inside, or to confuse whoever calls them."""

from __future__ import annotations

# Spellings of this machine and of other inner machines; {port} stands where a port can.
_SPELLINGS = """
http://127.0.0.1{port}/
http://127.1.2.3{port}/
http://127.1{port}/
http://127.0.1{port}/
http://0{port}/
http://0.0.0.0{port}/
http://2130706433{port}/
http://02130706433{port}/
http://4294967296{port}/
http://0x7f000001{port}/
http://0X7F000001{port}/
http://0x7f.0x0.0x0.0x1{port}/
http://0x7f.1{port}/
http://017700000001{port}/
http://0177.0.0.1{port}/
http://0177.0x0.0.1{port}/
http://00000177.0.0.1{port}/
http://127.0.0.0x1{port}/
http://127.0.0.01{port}/
http://127.0.0.1.{port}/
http://127.0.0.1..{port}/
http://127.0.0.256{port}/
http://127.0.0.1.0{port}/
http://１２７.０.０.１{port}/
http://127。0。0。1{port}/
http://127．0．0．1{port}/
http://127｡0｡0｡1{port}/
http://①②⑦.⓪.⓪.①{port}/
http://١٢٧.٠.٠.١{port}/
http://%31%32%37.0.0.1{port}/
http://127.0.0.1%00.example.com{port}/
http://127.0.0.1%2f.example.com{port}/
http://[::1]{port}/
http://[0:0:0:0:0:0:0:1]{port}/
http://[::]{port}/
http://[::127.0.0.1]{port}/
http://[::ffff:127.0.0.1]{port}/
http://[::ffff:7f00:1]{port}/
http://[0:0:0:0:0:ffff:7f00:0001]{port}/
http://[::ffff:0:127.0.0.1]{port}/
http://[64:ff9b::7f00:1]{port}/
http://[64:ff9b::127.0.0.1]{port}/
http://[64:ff9b:1::7f00:1]{port}/
http://[2002:7f00:1::]{port}/
http://[2001:0:7f00:1::]{port}/
http://[2606:4700::5efe:7f00:1]{port}/
http://[::1%25lo]{port}/
http://[::1%lo]{port}/
http://[fe80::1%25eth0]{port}/
http://[fe80::1]{port}/
http://[fec0::1]{port}/
http://[fd00::1]{port}/
http://[fd00:ec2::254]{port}/
http://[ff02::1]{port}/
http://[v1.127.0.0.1]{port}/
http://[127.0.0.1]{port}/
http://localhost{port}/
http://LOCALHOST{port}/
http://localhost.{port}/
http://ⓛocalhost{port}/
http://a.localhost{port}/
http://localhost.localdomain{port}/
http://router{port}/
http://metadata.google.internal{port}/computeMetadata/v1/
http://printer.local{port}/
http://nas.lan{port}/
http://host.home.arpa{port}/
http://169.254.169.254{port}/latest/meta-data/
http://0xa9fea9fe{port}/
http://2852039166{port}/
http://100.100.100.200{port}/
http://168.63.129.16{port}/
http://192.0.0.192{port}/
http://10.0.0.1{port}/
http://172.16.0.1{port}/
http://192.168.0.1{port}/
http://100.64.0.1{port}/
http://198.18.0.1{port}/
http://224.0.0.1{port}/
http://255.255.255.255{port}/
http://example.com@127.0.0.1{port}/
http://user:password@127.0.0.1{port}/
http://user@example.com{port}/
http://example.com:80@127.0.0.1{port}/
http://127.0.0.1{port}@example.com/
http://example.com#@127.0.0.1{port}/
http://127.0.0.1{port}#@example.com/
http://127.0.0.1{port}\\@example.com/
http://example.com\\@127.0.0.1{port}/
http:\\\\127.0.0.1{port}/
http:/127.0.0.1{port}/
http:127.0.0.1{port}/
http:///127.0.0.1{port}/
http://{port}/
//127.0.0.1{port}/
127.0.0.1{port}/
file:///etc/passwd
file://127.0.0.1{port}/etc/passwd
gopher://127.0.0.1{port}/_GET%20/
ftp://127.0.0.1{port}/
dict://127.0.0.1{port}/info
ldap://127.0.0.1{port}/
ws://127.0.0.1{port}/
unix:///run/docker.sock
http+unix://%2frun%2fdocker.sock/info
jar:http://127.0.0.1{port}!/
data:image/png;base64,iVBORw0KGgo=
javascript:alert(1)
httpſ://example.com/
about:blank
http://127.0.0.1:22/
http://example.com:22/
http://example.com:25/
http://example.com:6379/
http://example.com:0/
http://example.com:65536/
http://example.com:99999/
http://example.com:-80/
http://example.com:８０/
http://example.com:80:80/
http://example.com:/
http://exa mple.com{port}/
http://-.com{port}/
http://.example.com{port}/
http://example..com{port}/
http://example.com..{port}/
http://*{port}/
""".strip().splitlines()
# With what cannot be seen, or is not an address at all.
_INVISIBLE = [
    f"http://127.0.0.1{{port}}{character}/"
    for character in (
        "\t",
        "\n",
        "\r",
        "\x00",
        "\x7f",
        "\x85",
        "\xa0",
        "\u200b",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\ud800",
    )
] + [
    " http://127.0.0.1{port}/",
    "http://127.0.0.1{port}/ ",
    "ht\ntp://127.0.0.1{port}/",
    "http://127.0.\t0.1{port}/",
    "http://127.0.0.1{port}/ HTTP/1.1\r\nHost: example.com",
    "http://127.0.0.1{port}/\r\n\r\nDELETE / HTTP/1.1",
    "",
    "http://example.com/" + "a" * 2048,
]
HOSTILE = _SPELLINGS + _INVISIBLE
