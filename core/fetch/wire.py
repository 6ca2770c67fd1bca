"""One call on the wire: to the IP addresses that were checked and no others, and over at the deadline."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore

from core.fetch.networks import IPAddress

Resolve = Callable[[str, int], Sequence[str]]

# A resolver cannot be interrupted. So many may hang at once on name servers that never answer; further ones wait.
LOOKUPS_MAX = 32
_WRITE_BYTES_MAX = 16_384
_LOOKUPS = threading.BoundedSemaphore(LOOKUPS_MAX)


class Deadline:
    """The moment at which a call is over, whatever has been received by then."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left. Raises `httpcore.ReadTimeout` when there are none."""
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left_s


def system_resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a name, as the operating system finds them. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def resolve_by(resolve: Resolve, host: str, port: int, deadline: Deadline) -> Sequence[str]:
    """What `resolve` answers. Raises `httpcore.ReadTimeout` at the deadline, `OSError` where there is no such name."""
    answers: list[Sequence[str]] = []
    failures: list[Exception] = []
    places = _LOOKUPS

    def look_up() -> None:
        try:
            answers.append(resolve(host, port))
        except Exception as error:  # handed to the caller, who waits for it
            failures.append(error)
        finally:
            places.release()

    if not places.acquire(timeout=deadline.left_s()):
        raise httpcore.ReadTimeout("all look-ups are busy")
    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        places.release()
        raise OSError("no thread for a look-up") from None
    thread.join(deadline.left_s())
    if failures:
        raise OSError("the name could not be looked up") from failures[0]
    if not answers:
        raise httpcore.ReadTimeout("the look-up takes too long")
    return answers[0]


class PinnedNetwork(httpcore.NetworkBackend):
    """Connects to checked IP addresses, in their order, whatever name is asked for.

    Only the dialled address is replaced: `Host`, SNI and the certificate's name stay those of the URL.
    """

    def __init__(
        self, dialler: httpcore.NetworkBackend, addresses: Sequence[IPAddress], deadline: Deadline, connect_s: float
    ) -> None:
        self._dialler = dialler
        self._addresses = addresses
        self._deadline = deadline
        self._connect_s = connect_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for ip in self._addresses:
            timeout_s = min(self._connect_s, self._deadline.left_s())
            try:
                stream = self._dialler.connect_tcp(str(ip), port, timeout=timeout_s)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    """A connection on which no single wait outlasts the deadline of the whole call, however often it waits."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In pieces: the stream starts its clock anew for each part that the receiver takes.
        for start in range(0, len(buffer), _WRITE_BYTES_MAX):
            self._stream.write(buffer[start : start + _WRITE_BYTES_MAX], self._deadline.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s())
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
