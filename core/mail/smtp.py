"""The server that takes our mails, as the settings name it. Nothing here runs inside of a transaction."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from ipaddress import ip_address
from typing import Literal

import idna

from core.config import Settings
from core.db import utcnow
from core.errors import ConfigError

Outcome = Literal["sent", "refused", "put off", "failed"]

# Of each step; and of all of them, for a server that sends a letter now and then.
STEP_S = 10.0
ALL_S = 40.0
PORTS = {"starttls": 587, "tls": 465, "none": 25}


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent to one address: an id that is never used twice, a subject of one line, and plain text."""

    id: str
    to: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of sending a letter: `refused` for good, `put off`, or `failed`, as any other would have.

    `why` names no address.
    """

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True, slots=True)
class Smtp:
    """How the server is reached, who the mails are from, and the address of the portal that their links lead to."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"]
    user: str
    password: str = field(repr=False)
    sender_name: str
    sender: str
    public_url: str

    def send(self, letter: Letter) -> Attempt:
        """Hand one letter to the server, within `ALL_S`."""
        try:
            message = self._write(letter)
        except (ValueError, IndexError, HeaderParseError) as error:  # no single address, or a line for no header
            return Attempt("refused", type(error).__name__)
        try:
            with self._connected() as server:
                return self._hand_over(server, message)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Attempt("failed", explain(error))

    def _hand_over(self, server: smtplib.SMTP, message: EmailMessage) -> Attempt:
        """What comes of it once the server has greeted us: from here on the letter may be what it does not like."""
        try:
            server.send_message(message, self.sender, [message["To"].addresses[0].addr_spec])
        except smtplib.SMTPSenderRefused as error:
            return Attempt("failed", explain(error))  # every letter has this sender
        except smtplib.SMTPRecipientsRefused as error:
            code = next(iter(error.recipients.values()))[0]
            return Attempt("refused" if 500 <= code < 600 else "put off", f"{type(error).__name__} {code}")
        except smtplib.SMTPDataError as error:
            return Attempt("refused" if 500 <= error.smtp_code < 600 else "put off", explain(error))
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Attempt("put off", explain(error))
        return Attempt("sent")

    def check(self) -> str:
        """Sign in at the server and send nothing; what went wrong in one word or two, empty when all is well."""
        try:
            with self._connected() as server:
                server.noop()
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return explain(error)
        return ""

    def _write(self, letter: Letter) -> EmailMessage:
        message = EmailMessage(policy=SMTP_POLICY)
        message["From"] = Address(self.sender_name, addr_spec=self.sender)
        local, _at, domain = letter.to.rpartition("@")
        # Not every server knows other letters than ASCII, but every domain has a name in it (RFC 5891).
        message["To"] = Address(addr_spec=f"{local}@{idna.encode(domain, uts46=True).decode()}")
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(utcnow())
        message["Message-ID"] = f"<{letter.id}@{self.sender.rpartition('@')[2]}>"
        # No vacation's answer is wanted (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        return message

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        # Its certificate must be the host's; a private authority is named by SSL_CERT_FILE.
        context = ssl.create_default_context()
        # The name that we greet with; by default it would be looked up, which may take long, and tells our host's.
        name = self.sender.rpartition("@")[2]
        server = (
            smtplib.SMTP_SSL(local_hostname=name, timeout=STEP_S, context=context)
            if self.tls == "tls"
            else smtplib.SMTP(local_hostname=name, timeout=STEP_S)
        )
        # smtplib takes the name for TLS from here, and sets it only when it connects by itself.
        server._host = self.host  # type: ignore[attr-defined]  # see above
        begun_at, is_over = time.monotonic(), threading.Event()
        threading.Thread(target=_cut, args=(server, is_over), name="mail-cut", daemon=True).start()
        try:
            server.connect(self.host, self.port)
            # A resolver cannot be interrupted, and each of a name's addresses has a step of its own.
            if time.monotonic() - begun_at > ALL_S:
                raise TimeoutError
            if self.tls == "starttls":
                # Raises where the server offers none: nothing is said in the clear instead.
                server.starttls(context=context)
            if self.user:
                server.login(self.user, self.password)
            server.ehlo_or_helo_if_needed()
            yield server
            with suppress(smtplib.SMTPException, OSError):
                server.quit()
        finally:
            is_over.set()
            server.close()


def _cut(server: smtplib.SMTP, is_over: threading.Event) -> None:
    """End an attempt that takes longer than `ALL_S`, also one that is not connected until then."""
    if is_over.wait(ALL_S):
        return
    while not is_over.wait(0.1):
        with suppress(OSError, AttributeError):
            server.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # None before it is connected


def explain(error: Exception) -> str:
    """The kind of a failure and the server's code, without its words."""
    code = getattr(error, "smtp_code", None)
    return type(error).__name__ if code is None else f"{type(error).__name__} {code}"


def read_smtp(settings: Settings) -> Smtp | None:
    """The server as the operator set it up; None without a host. Raises `ConfigError` for what does not fit."""
    host = settings.smtp_host.strip()
    password = settings.smtp_password.get_secret_value()
    if not host:
        if settings.smtp_user or password or settings.smtp_from:
            raise ConfigError("VISIONMETER_SMTP_HOST is missing: without it no mail is sent.")
        return None
    if "/" in host or "@" in host or any(character.isspace() for character in host):
        raise ConfigError("VISIONMETER_SMTP_HOST is a host's name alone, such as smtp.example.com.")
    name, sender = parseaddr(settings.smtp_from)
    try:
        Address(name, addr_spec=sender)
    except (ValueError, HeaderParseError, IndexError):
        sender = ""
    if "@" not in sender or not settings.smtp_from.isprintable():
        raise ConfigError(
            "VISIONMETER_SMTP_FROM is needed to send mail: the address it comes from, such as VisionMeter "
            "<no-reply@example.com>."
        )
    if bool(settings.smtp_user) != bool(password):
        raise ConfigError("VISIONMETER_SMTP_USER and VISIONMETER_SMTP_PASSWORD belong together: give both or neither.")
    if password and settings.smtp_tls == "none" and not _is_here(host):
        raise ConfigError("VISIONMETER_SMTP_TLS=none would send the password in the clear: use starttls or tls.")
    if not settings.public_base:
        raise ConfigError(
            "VISIONMETER_PUBLIC_URL is needed to send mail: the portal's address, such as https://vision.example.com."
        )
    return Smtp(
        host,
        settings.smtp_port or PORTS[settings.smtp_tls],
        settings.smtp_tls,
        settings.smtp_user,
        password,
        name,
        sender,
        settings.public_base,
    )


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
