"""The mail server as the settings name it, against a real one on the loopback."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.config import Settings
from core.errors import ConfigError
from core.mail import smtp
from core.mail.smtp import Letter, Smtp, read_smtp
from tests.mail_server import PASSWORD, USER, MailServer, mail_server

CERTIFICATES = Path(__file__).parents[1] / "fetch" / "certificates"
LETTER = Letter("mail_1.1", "ann@example.com", "Hello", "A line.\n")


def configured(server: MailServer, **changes: Any) -> Smtp:
    """A server as the settings give it."""
    found = read_smtp(Settings(_env_file=None, **server.settings(**changes)))
    assert found is not None
    return found


def test_a_letter_arrives() -> None:
    """It comes from the configured address, says what it should, in any script, and asks for no automatic answer."""
    with mail_server() as server:
        letter = Letter(
            "mail_1.1", "ann@example.com", "余额不足提醒", "第一行\n\nhttps://vision.example.com/?reset=x\n"
        )
        assert configured(server).send(letter).outcome == "sent"
        [got] = server.received
    assert (got.sender, got.to) == ("no-reply@vision.example.com", ["ann@example.com"])
    assert got.message["From"] == "VisionMeter <no-reply@vision.example.com>"
    assert got.message["Subject"] == letter.subject
    assert got.message["Message-ID"] == "<mail_1.1@vision.example.com>"
    assert got.message["Auto-Submitted"] == "auto-generated"
    assert got.text == letter.text
    assert got.message.get_content_type() == "text/plain"


@pytest.mark.parametrize(
    "to",
    [
        "ann@example.com\r\nBcc: eve@example.com",
        "ann@example.com, eve@example.com",
        "Ann: ann@example.com, eve@example.com;",
        "ann@example.com>\r\nRCPT TO:<eve@example.com",
        "ann",
        "",
    ],
)
def test_an_address_injects_nothing(to: str) -> None:
    """What is no single address reaches nobody else, and no header: it is refused before the server hears of it."""
    with mail_server() as server:
        assert configured(server).send(Letter("x", to, "Hello", "A line.\n")).outcome == "refused"
        assert server.received == []


def test_a_domain_of_any_script() -> None:
    """A domain in Chinese is written as every server knows it."""
    with mail_server() as server:
        assert configured(server).send(Letter("x", "ann@例子.com", "Hello", "A line.\n")).outcome == "sent"
        [got] = server.received
    assert got.to == ["ann@xn--fsqu00a.com"]


def test_a_subject_injects_nothing() -> None:
    """A line break in a subject makes no header."""
    with mail_server() as server:
        letter = Letter("x", "ann@example.com", "Hello\r\nBcc: eve@example.com", "A line.\n")
        assert configured(server).send(letter).outcome == "refused"
        assert server.received == []


def test_a_line_with_a_dot_ends_nothing() -> None:
    """A text cannot end the message early and speak to the server itself."""
    with mail_server() as server:
        text = "one\n.\nMAIL FROM:<eve@example.com>\nRCPT TO:<bob@example.com>\n"
        assert configured(server).send(Letter("x", "ann@example.com", "Hello", text)).outcome == "sent"
        [got] = server.received
    assert got.text == text
    assert got.to == ["ann@example.com"]


@pytest.mark.parametrize(
    ("reply", "outcome"), [("550 no such person ann@example.com", "refused"), ("451 later", "put off")]
)
def test_what_the_server_says_of_a_recipient(reply: str, outcome: str) -> None:
    """A 5xx is final, a 4xx is not, and the reason repeats no address."""
    with mail_server() as server:
        server.reply = reply
        attempt = configured(server).send(LETTER)
    assert attempt.outcome == outcome
    assert "@" not in attempt.why
    assert reply[:3] in attempt.why


def test_a_password_under_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With STARTTLS and the right password mail goes; with a wrong one, or a certificate of nobody's, it does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem")
    with mail_server(tls=context, needs_password=True) as server:
        account = {"smtp_tls": "starttls", "smtp_user": USER, "smtp_password": PASSWORD}
        assert "SSL" in configured(server, **account).check()
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))
        known = configured(server, **account)
        known = Smtp(**{**{name: getattr(known, name) for name in Smtp.__slots__}, "host": HOST})
        monkeypatch.setattr(socket, "getaddrinfo", _everything_is_here)
        assert known.check() == ""
        assert known.send(LETTER).outcome == "sent"
        wrong = Smtp(**{**{name: getattr(known, name) for name in Smtp.__slots__}, "password": "wrong"})
        assert wrong.check() == "SMTPAuthenticationError 535"
        assert len(server.received) == 1
    assert PASSWORD not in repr(known)


HOST = "pictures.example.com"
_getaddrinfo = socket.getaddrinfo


def _everything_is_here(_host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
    return _getaddrinfo("127.0.0.1", port, *args, **kwargs)


def test_nothing_is_said_without_tls() -> None:
    """A server that offers no STARTTLS gets no mail and no password in the clear."""
    with mail_server() as server:
        wanted = configured(server, smtp_tls="starttls", smtp_user=USER, smtp_password=PASSWORD)
        assert wanted.send(LETTER).outcome == "failed"
        assert server.received == []


def test_nobody_there() -> None:
    """A port where nothing listens is a failure that may be tried again."""
    with mail_server() as server:
        settings = configured(server)
    assert settings.send(LETTER).why == "ConnectionRefusedError"
    assert settings.check() == "ConnectionRefusedError"


def test_a_server_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends a letter now and then, each in time, holds nobody for longer than all of it may take."""
    monkeypatch.setattr(smtp, "ALL_S", 1.0)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _peer = listener.accept()
        try:
            while True:
                connection.sendall(b"2")
                time.sleep(0.1)
        except OSError:
            connection.close()

    threading.Thread(target=drip, daemon=True).start()
    begun = time.monotonic()
    attempt = configured(MailServer(port=listener.getsockname()[1])).send(LETTER)
    listener.close()
    assert attempt.outcome == "failed"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"smtp_host": "", "smtp_user": "x"}, "SMTP_HOST"),
        ({"smtp_host": "smtp://mail.example.com"}, "SMTP_HOST"),
        ({"smtp_from": ""}, "SMTP_FROM"),
        ({"smtp_from": "VisionMeter"}, "SMTP_FROM"),
        ({"smtp_from": "a@example.com\nBcc: b@example.com"}, "SMTP_FROM"),
        ({"smtp_user": "x"}, "SMTP_PASSWORD"),
        ({"smtp_host": "mail.example.com", "smtp_user": "x", "smtp_password": "y"}, "SMTP_TLS"),
        ({"public_url": ""}, "PUBLIC_URL"),
        ({"public_url": "vision.example.com"}, "PUBLIC_URL"),
        ({"public_url": "https://vision.example.com/?x=1"}, "PUBLIC_URL"),
    ],
)
def test_mistakes_stop_the_start(changes: dict[str, Any], names: str) -> None:
    """Each mistake is a sentence that names its setting."""
    with pytest.raises(ConfigError, match=f"VISIONMETER_{names}"):
        read_smtp(Settings(_env_file=None, **MailServer(port=25).settings(**changes)))


def test_without_a_host_no_mail_is_sent() -> None:
    """The default is no mail."""
    assert read_smtp(Settings(_env_file=None)) is None


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    """A file takes the place of the variable."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    server = MailServer(port=2525)
    found = configured(server, smtp_user=USER, smtp_password_file=str(tmp_path / "password"))
    assert (found.password, found.port) == (PASSWORD, 2525)
    assert configured(server, smtp_port=0, smtp_tls="tls").port == 465


@pytest.mark.parametrize(("reply", "outcome"), [("554 we take no such text", "refused"), ("451 later", "put off")])
def test_what_the_server_says_of_the_text(reply: str, outcome: str) -> None:
    """What it says at the end of a letter is about this letter: the server is not down."""
    with mail_server() as server:
        server.verdict = reply
        attempt = configured(server).send(LETTER)
        assert (attempt.outcome, attempt.why) == (outcome, f"SMTPDataError {reply[:3]}")


def test_a_letter_that_hangs_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that greets and then says nothing to a letter puts off this letter: the next has its turn."""
    monkeypatch.setattr(smtp, "STEP_S", 0.5)
    with mail_server() as server:
        server.answers_after_s = 2
        assert configured(server).send(LETTER).outcome == "put off"


def test_a_slow_resolver_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt whose time is over when it is connected sends nothing: the next may have begun."""
    monkeypatch.setattr(smtp, "ALL_S", 0.3)

    def slow(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.6)
        return _getaddrinfo(host, port, *args, **kwargs)

    with mail_server() as server:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        assert configured(server).send(LETTER).outcome == "failed"
        assert server.received == []
