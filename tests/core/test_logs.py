"""Log lines: one form for all loggers, and nothing in them that must not be there."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import structlog

from core.config import SESSION_COOKIE, Settings
from core.logs import REMOVED, TEXT_CHARS_MAX, configure_logging, request_facts, scrub, scrub_text

KEY = "vm_" + "aB3dE5gH7j" * 4
EMAIL = "ann.lee+lab@example.co.uk"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef" * 2).decode()
PICTURE = base64.b64encode(bytes(range(256))).decode()
TOKEN = secrets.token_urlsafe(32).replace("-", "A")
COOKIE = f"{SESSION_COOKIE}={TOKEN}"

Configure = Callable[..., io.StringIO]
log = logging.getLogger("visionmeter.test")


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Sets logging up on a stream of the test's, and afterwards puts back what was there."""
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    noisy = [logging.getLogger(name) for name in ("httpx", "httpcore", "urllib3", "alembic.runtime.plugins")]
    before = (list(root.handlers), root.level, access.disabled, [logger.level for logger in noisy])

    def on_a_stream(log_format: str, **changes: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(Settings(_env_file=None, log_format=log_format, **changes), stream)
        return stream

    yield on_a_stream
    root.handlers, access.disabled = before[0], before[2]
    root.setLevel(before[1])
    for logger, level in zip(noisy, before[3], strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines written so far, as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# What is removed -----------------------------------------------------------------------------------

SECRETS = {
    "api key": KEY,
    "shortest key": "vm_" + "a" * 16,
    "e-mail": EMAIL,
    "e-mail in an address": "ann.lee%40example.com",
    "e-mail in other letters": "анна@пример.рф",
    "webhook secret": SECRET,
    "session cookie": COOKIE,
    "session token alone": TOKEN,
    "base64": PICTURE,
    "base64 for addresses": PICTURE.replace("+", "-").replace("/", "_"),
    "small picture": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==",
    "base64 with escaped slashes": PICTURE.replace("/", "\\/"),
    "bytes": repr(b'\xff\xd8\xff\xe0 it\'s "JFIF"')[2:-1],
    "password hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g",
}
WRAPPED = {"bytes": "b'{}'"}
TEXTS = ["{}", "before {} after", "({})", "key={}", "'{}'", '{{"a": "{}"}}', "<{}>", "https://example.com/?q={}&x=1"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_removed_from_a_text(name: str, text: str) -> None:
    """Wherever it stands in a sentence, nothing of it remains; what stands before it does."""
    secret = WRAPPED.get(name, "{}").format(SECRETS[name])
    clean = scrub_text(text.format(secret))
    assert SECRETS[name] not in clean
    assert REMOVED in clean
    assert clean.startswith(text.split("{}", maxsplit=1)[0].format())


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc123",
        "authorization: Basic dXNlcjpwdw==",
        "Proxy-Authorization:abc123",
        "{'authorization': 'Token abc123', 'accept': 'x'}",
        '{"Authorization": "abc123"}',
        '{\\"authorization\\": \\"abc123\\"}',
        "[(b'authorization', b'abc123')]",
        "('Cookie', 'a=abc123; b=2')",
        "Cookie: a=abc123; b=abc123",
        "Set-Cookie: a=abc123; Path=/",
        "X-API-Key: abc123",
        "curl -H 'Authorization: Bearer abc123'",
        "wrong token: Bearer abc12345",
        "postgresql+psycopg://ann:abc123@db/x",
    ],
)
def test_credentials_are_removed_by_their_place(text: str) -> None:
    """What looks like nothing in particular is removed for the name before it."""
    clean = scrub_text(text)
    assert "abc123" not in clean
    assert "dXNlcjpwdw" not in clean
    assert REMOVED in clean


@pytest.mark.parametrize(
    "text",
    [
        "POST /v1/jobs/{job_id} 200",
        "req_97abda101284453cbe626ecd",
        "acct_0123456789abcdef01234567 hold_0123456789abcdef01234567 key_0123456789abcdef01234567",
        "vm_aB3dE5gH (prefix)",
        "image 5f6f620d0fa574ed80d8348bb8d46060148eb0ba24e3eea00d31a30cdadba41d failed: image_broken",
        'File "/srv/visionmeter/core/services/run_image.py", line 12, in run_image',
        "the matrix a @ b, the decorator @router.get, a version pkg@1",
        "2026-11-24T19:46:06.458092Z models run on cuda (NVIDIA H100 80GB HBM3)",
        "the bearer of bad news; a cookie, a secret",
        "https://example.com/pictures/street.jpg?size=960",
    ],
)
def test_what_helps_an_operator_stays(text: str) -> None:
    """Ids, prefixes, hashes, paths and sentences come out as they went in."""
    assert scrub_text(text) == text


def test_base64_in_lines_is_removed() -> None:
    """As mail and `base64.encodebytes` wrap it, with either kind of line break."""
    wrapped = base64.encodebytes(bytes(range(256)) * 3).decode()
    for text in (wrapped, wrapped.replace("\n", "\r\n"), repr(wrapped)):
        assert len(scrub_text(f"body: {text}")) < 40


def test_values_are_scrubbed_however_deep_they_lie() -> None:
    """Mappings, their keys, lists, pairs of headers, bytes and arrays; numbers stay numbers."""
    value = {
        "headers": [(b"authorization", b"Bearer x"), ("Cookie", "a=b"), ["accept", "*/*"]],
        "Password": "hunter2",
        EMAIL: 1,
        "body": {"images": [{"image": PICTURE, "name": EMAIL}, {"image": b"\xff\xd8"}]},
        "pixels": np.zeros((4, 4, 3), np.uint8),
        "view": memoryview(b"abc"),
        "set": {KEY},
        "number": 3,
        "share": 0.5,
        "none": None,
        "yes": True,
    }
    assert scrub(value) == {
        "headers": [[REMOVED, REMOVED], ["Cookie", REMOVED], ["accept", "*/*"]],
        "Password": REMOVED,
        REMOVED: 1,
        "body": {"images": [{"image": REMOVED, "name": REMOVED}, {"image": REMOVED}]},
        "pixels": REMOVED,
        "view": REMOVED,
        "set": [REMOVED],
        "number": 3,
        "share": 0.5,
        "none": None,
        "yes": True,
    }


def test_what_is_nested_without_end_is_scrubbed_too() -> None:
    """Deeper than anybody looks, and a list that holds itself, become scrubbed text."""
    deep: Any = KEY
    for _ in range(50):
        deep = {"in": [deep]}
    endless: list[Any] = [KEY]
    endless.append(endless)
    for value in (deep, endless):
        text = json.dumps(scrub(value))
        assert KEY not in text
        assert REMOVED in text


@pytest.mark.parametrize(
    "text",
    [
        "QUJD" * 2_500_000,
        ("A" * 200 + " ") * 50_000,
        "data:" * 2_000_000,
        "@" * 10_000_000,
        ("a." * 150 + " @") * 60,
        ("cookie" + " " * 1000) * 19,
        ("A" * 60 + "\n") * 2 + " " * 10_000_000,
    ],
    ids=["base64", "runs", "data", "at", "dots", "spaces", "line breaks"],
)
def test_a_text_of_any_size_costs_little(text: str) -> None:
    """Ten megabytes of what a pattern likes least: a second or so, and a short line."""
    began = time.perf_counter()
    assert len(scrub_text(text)) <= TEXT_CHARS_MAX + 100
    assert time.perf_counter() - began < 10


# How a line looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_nothing_secret_is_written(configure: Configure, log_format: str) -> None:
    """In the event, its arguments, its fields and the text of an exception and its cause."""
    stream = configure(log_format)
    everything = " ".join([KEY, EMAIL, SECRET, COOKIE, PICTURE])
    log.warning("event %s and %r", everything, {"image": PICTURE}, extra={"field": everything, "deep": [{"a": KEY}]})
    try:
        try:
            raise KeyError(everything)
        except KeyError as error:
            raise ValueError(f"Authorization: Bearer {TOKEN}\n{everything}") from error
    except ValueError:
        log.exception("failed")
    structlog.get_logger("visionmeter.test").error("native %s", everything, field=everything, body=b"\xff\xd8")
    written = stream.getvalue()
    for secret in (KEY, EMAIL, SECRET, TOKEN, PICTURE, "xff"):
        assert secret not in written
    for rest in ("event", "Traceback", "ValueError", "KeyError", "native", REMOVED):
        assert rest in written


def test_every_logger_writes_json(configure: Configure) -> None:
    """Ours, a library's, one that brought a handler of its own, and structlog's give the same fields on one line."""
    library = logging.getLogger("test_logs.library")
    own = logging.StreamHandler(io.StringIO())
    library.addHandler(own)
    library.propagate = False
    stream = configure("json")
    log.info("one\nline %d", 1, extra={"route": "/v1/detect", "status": 200})
    library.warning("two", extra={"color_message": "\x1b[1mtwo"})
    structlog.get_logger("visionmeter.test").info("three", status=3)
    first, second, third = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "one\nline 1",
        "level": "info",
        "logger": "visionmeter.test",
        "route": "/v1/detect",
        "status": 200,
    }
    assert (second["event"], second["level"], second["logger"]) == ("two", "warning", "test_logs.library")
    assert "color_message" not in second
    assert (third["event"], third["status"], third["logger"]) == ("three", 3, "visionmeter.test")
    assert own.stream.getvalue() == ""


def test_the_console_is_one_line_for_a_line(configure: Configure) -> None:
    """A name with a line break or an escape sequence cannot forge a line; a traceback keeps its lines."""
    stream = configure("console")
    log.info("picture %s", "a\n2026-01-01 [info] forged\x1b[2J", extra={"named": "b\r\nforged"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("failed")
    assert "\nTraceback (most recent call last):\n" in stream.getvalue()


def test_configuring_again_replaces(configure: Configure) -> None:
    """The newest stream and level are in force, and nothing is written twice."""
    old = configure("json")
    new = configure("json", log_level="WARNING")
    log.info("quiet")
    log.warning("loud")
    assert (old.getvalue(), [line["event"] for line in lines(new)]) == ("", ["loud"])


def test_what_names_customers_addresses_is_quiet(configure: Configure) -> None:
    """uvicorn's access log and the HTTP client's lines, which hold raw paths and image addresses, are not written."""
    stream = configure("json", log_level="DEBUG")
    logging.getLogger("uvicorn.access").info('127.0.0.1 - "GET /v1/jobs/job_1 HTTP/1.1" 200')
    logging.getLogger("httpx").info("HTTP Request: GET https://example.com/private.jpg")
    assert stream.getvalue() == ""


def test_a_line_that_cannot_be_formatted_is_named_without_its_arguments(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """stdlib would print the arguments on stderr, past everything; here the place of the fault is written."""
    stream = configure("json")
    ours = logging.Logger("test_logs.alone")  # without pytest's handler, which raises
    ours.addHandler(logging.getLogger().handlers[-1])
    ours.info("%d images", KEY)
    written = stream.getvalue() + "".join(capsys.readouterr())
    assert "test_logs.py" in written
    assert KEY not in written


# What the lines of one request have in common ------------------------------------------------------


def test_request_facts_are_on_every_line(configure: Configure) -> None:
    """Also those that become known later and in another thread; after the request they are gone."""
    stream = configure("json")
    facts: dict[str, Any] = {"request_id": "req_1", "other": "x"}
    with request_facts(facts):
        log.info("before")
        thread = threading.Thread(target=lambda: facts.update(account_id="acct_1", key_id="key_1"))
        thread.start()
        thread.join()
        log.info("after")
        logging.getLogger("test_logs.library").warning("library")
    log.info("outside")
    before, after, library, outside = lines(stream)
    assert (before["request_id"], "account_id" in before, "other" in before) == ("req_1", False, False)
    for line in (after, library):
        assert (line["request_id"], line["account_id"], line["key_id"]) == ("req_1", "acct_1", "key_1")
    assert not {"request_id", "account_id", "key_id"} & set(outside)


def test_bound_contextvars_are_on_the_line(configure: Configure) -> None:
    """structlog's own way works beside it."""
    stream = configure("json")
    with structlog.contextvars.bound_contextvars(account_id="acct_2"):
        log.info("bound")
    assert lines(stream)[0]["account_id"] == "acct_2"
