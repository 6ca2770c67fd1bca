"""A real SMTP server on the loopback, which keeps what it is given and can be told to misbehave."""

from __future__ import annotations

import asyncio
import email
import email.policy
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from aiosmtpd.smtp import Session as SmtpSession

PUBLIC_URL = "https://vision.example.com"
USER, PASSWORD = "mailer", "sesame open it"


@dataclass
class Received:
    """One mail as it arrived: the envelope's addresses, and the message."""

    sender: str
    to: list[str]
    raw: bytes
    message: EmailMessage

    @property
    def text(self) -> str:
        """The body as it is read."""
        return str(self.message.get_content()).replace("\r\n", "\n")

    @property
    def link(self) -> str:
        """The first address in the body."""
        found = re.search(r"https?://\S+", self.text)
        assert found is not None, self.text
        return found[0]

    @property
    def secret(self) -> str:
        """What the link carries."""
        return self.link.partition("=")[2]


@dataclass
class MailServer:
    """What arrived, and how to answer: `reply` to a recipient, `verdict` on a text (empty: accept) and when."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    reply: str = ""
    verdict: str = ""
    answers_after_s: float = 0
    arrived: threading.Condition = field(default_factory=threading.Condition)

    async def handle_RCPT(  # aiosmtpd's name
        self, _server: SMTP, _session: SmtpSession, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Take a recipient, or refuse as told."""
        if self.reply:
            return self.reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: SmtpSession, envelope: Envelope) -> str:  # as above
        """Keep a message, or refuse as told."""
        await asyncio.sleep(self.answers_after_s)
        if self.verdict:
            return self.verdict
        raw = envelope.original_content or b""
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        with self.arrived:
            self.received.append(Received(envelope.mail_from or "", list(envelope.rcpt_tos), raw, message))
            self.arrived.notify_all()
        return "250 OK"

    def wait_for(self, to: str, *, count: int = 1, timeout_s: float = 15) -> Received:
        """The newest mail to an address, when so many have arrived."""
        deadline = time.monotonic() + timeout_s
        with self.arrived:
            while len(found := [one for one in self.received if one.to == [to]]) < count:
                assert self.arrived.wait(max(0.0, deadline - time.monotonic())), f"no mail number {count} to {to}"
        return found[-1]

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Settings that name this server."""
        return {
            "smtp_host": "127.0.0.1",
            "smtp_port": self.port,
            "smtp_tls": "none",
            "smtp_from": "VisionMeter <no-reply@vision.example.com>",
            "public_url": PUBLIC_URL,
            **changes,
        }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _authenticate(_server: SMTP, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    fits = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=fits, handled=False)


@contextmanager
def mail_server(*, tls: ssl.SSLContext | None = None, needs_password: bool = False) -> Iterator[MailServer]:
    """A server on a free port; with `tls` it speaks STARTTLS."""
    server = MailServer()
    controller = Controller(
        server,
        hostname="127.0.0.1",
        port=_free_port(),
        tls_context=tls,
        require_starttls=tls is not None,
        authenticator=_authenticate if needs_password else None,
        auth_required=needs_password,
        auth_require_tls=tls is not None,
    )
    controller.start()
    try:
        server.port = controller.port
        yield server
    finally:
        controller.stop()
