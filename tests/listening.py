"""Web servers of tests, in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer

# How often a server looks whether it is to end. Half a second, as it is by default, is waited for after each test.
POLL_S = 0.02


@contextmanager
def listening(server: HTTPServer) -> Iterator[None]:
    """Let a server answer while the block lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
