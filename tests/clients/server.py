"""The gateway in a process of its own, with customers, and a small web that it may fetch from and call."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from core.config import Settings
from core.services import api_keys, sign_in
from core.services.api_key_settings import KeySettings
from core.services.application import open_application
from tests.browser.conftest import Server
from tests.conftest import PASSWORD
from tests.listening import listening

# 320 × 160 at 320 on a model of β 1: what one picture of `new_picture` costs.
PICTURE_TOKENS = Decimal("0.125")


def new_picture() -> bytes:
    """A picture that no account has sent before, so that it is not free: 320 × 160 pixels."""
    noise = np.frombuffer(uuid.uuid4().bytes * (320 * 160 * 3 // 16), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise.reshape(160, 320, 3).copy()).save(file, "PNG")
    return file.getvalue()


@dataclass
class Web:
    """Serves pictures, and keeps what is posted to it."""

    pictures: dict[str, bytes]
    posted: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def serve(self) -> Iterator[None]:
        """Listens for the length of the block."""
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                picture = web.pictures[self.path.lstrip("/")]
                self._answer(200, picture)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.posted.append((dict(self.headers.items()), body))
                self._answer(204)

            def _answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        with listening(server):
            yield


@dataclass
class Gateway(Server):
    """The server of these tests: one process, SQLite, the embedded model, on the CPU."""

    web: Web = field(default_factory=lambda: Web({}))

    @property
    def env(self) -> dict[str, str]:
        return {
            **super().env,
            "VISIONMETER_DEVICE": "cpu",
            "VISIONMETER_MODEL_FETCH": "false",
            "VISIONMETER_FETCH_ALLOWED_HOSTS": f"127.0.0.1:{self.web.port}",
            "VISIONMETER_RATE_IMAGES_PER_MINUTE": "100000",
        }

    def add_customer(self, email: str, tokens: Decimal) -> str:
        """An account with so many tokens, as a person makes it; gives the secret of its key, which manages keys."""
        app = open_application(
            Settings(
                _env_file=None,
                data_dir=self.data_dir,
                weights_dir=self.data_dir / "weights",
                device="cpu",
                welcome_tokens=tokens,
            )
        )
        try:
            user = sign_in.signed_in_user(app, sign_in.open_session(app, sign_in.sign_up(app, email, PASSWORD)))
            assert user is not None
            return api_keys.create_key(app, user, KeySettings("test", manages_keys=True)).secret
        finally:
            app.close()
