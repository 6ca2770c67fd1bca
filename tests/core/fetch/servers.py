"""Real servers on loopback that answer as they are told, byte by byte, and a network that leads only to them."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpcore

CERTIFICATES = Path(__file__).parent / "certificates"
PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1:248:1893:25c8:1946"

Answer = Callable[[socket.socket, bytes], None]


class Server:
    """Counts connections, keeps the head of each request, and answers each by `answer`."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._answer = answer
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(10)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head and (received := connection.recv(65_536)):
                head += received
            self.requests.append(head)
            self._answer(connection, head)
        except OSError:
            pass  # the caller hung up, which is what many of these tests are about
        finally:
            connection.close()

    def stop(self) -> None:
        # shutdown wakes the thread in accept; closing alone would leave it there.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A running server."""
    server = Server(answer, tls)
    try:
        yield server
    finally:
        server.stop()


class LoopbackNetwork(httpcore.SyncBackend):
    """Notes each address that is dialled, and connects to one server on loopback in its place."""

    def __init__(self, port: int) -> None:
        self.dialled: list[tuple[str, int]] = []
        self._port = port

    def connect_tcp(self, host: str, port: int, **options: Any) -> httpcore.NetworkStream:
        self.dialled.append((host, port))
        return super().connect_tcp("127.0.0.1", self._port, **options)


def resolves_to(*answers: str) -> Callable[[str, int], list[str]]:
    """A resolver that gives every name these addresses."""
    return lambda _host, _port: list(answers)


def says(*parts: bytes, every_s: float = 0.0) -> Answer:
    """Sends these bytes, one part after the other, and hangs up."""

    def answer(connection: socket.socket, _head: bytes) -> None:
        for part in parts:
            connection.sendall(part)
            time.sleep(every_s)

    return answer


def repeats(first: bytes, then: bytes, *, every_s: float = 0.0) -> Answer:
    """Sends `first`, then the same bytes again and again until the other side hangs up."""

    def answer(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(then)
            time.sleep(every_s)

    return answer


def ok(body: bytes = b"picture", headers: Iterable[str] = ()) -> bytes:
    """A plain answer with status 200."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(status: int, location: str) -> bytes:
    """A redirect; its body must never be taken for a picture."""
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nbody".encode()
