"""How a log line looks, and what never stands in one: keys, e-mails, cookies, secrets, pictures.

Every `logging.getLogger(…)` of the process, ours and the libraries', is written by the one handler that
`configure_logging` sets up, so nothing gets past `scrub`. Facts go into `extra={…}` and become fields of the line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from core.config import SESSION_COOKIE, Settings

REMOVED = "[removed]"
TEXT_CHARS_MAX = 20_000
NESTING_MAX = 8
# What the lines of one request have in common; the last two are known once its key was looked up.
REQUEST_FACTS = ("request_id", "account_id", "key_id")

_facts: ContextVar[Mapping[str, Any] | None] = ContextVar("request_facts", default=None)


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Write every line to `stream` (stderr) as `settings.log_format` says. Calling it again replaces what it set up."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_facts,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _scrub_line,
                *_renderers(settings.log_format, colors=stream.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler) and not _is_plain(other)]
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    _take_over_libraries()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@contextmanager
def request_facts(facts: Mapping[str, Any]) -> Iterator[None]:
    """Put `request_id`, `account_id` and `key_id` of `facts` on every line written meanwhile, also by worker threads.

    They are looked up when a line is written: what is added to `facts` later stands on the later lines.
    """
    token = _facts.set(facts)
    try:
        yield
    finally:
        _facts.reset(token)


def current_request_id() -> str | None:
    """The id of the request that this code runs for, if it runs for one."""
    return (_facts.get() or {}).get("request_id")


# What is removed -----------------------------------------------------------------------------------

# A field or a header of one of these names is removed whatever its value.
SECRET_NAMES = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "password", "secret", "email"}
)
_BASE64 = r"A-Za-z0-9+/_%\\-"
# The first two shorten a text of any size in one pass; the others see at most TEXT_CHARS_MAX characters.
_LONG = (
    re.compile(rf"(?:data:[\w/.+-]{{0,100}};base64,[{_BASE64}]*|(?<![{_BASE64}])[{_BASE64}]{{201,}})={{0,2}}"),
    # The same in lines of 76 characters, as `base64.encodebytes` and mail write it.
    re.compile(r"(?<![A-Za-z0-9+/=_-])(?:[A-Za-z0-9+/=_-]{50,}\r?\n[ \t]*){3,}[A-Za-z0-9+/=_-]*"),
)
# A short word, as most fields are; only the two prefixes could make one a secret.
_WORD = re.compile(r"(?!.*(?:vm_|whsec_))[\w./-]{0,42}")
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"(?i)\b((?:proxy[-_])?authorization|(?:set[-_])?cookie|x[-_]api[-_]key)"
            r"""(\\?["']?\s*(?:[:=]|,(?=\s*b?["']))\s*)(?:b?"[^"\n]*"|b?'[^'\n]*'|[^\n]+)"""
        ),
        rf"\1\2{REMOVED}",
    ),
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (re.compile(rf"""\b({SESSION_COOKIE}|_streamlit_\w+)(["']?\s*[=:]\s*["']?)[^\s;,"']+"""), rf"\1\2{REMOVED}"),
    (re.compile(r"vm_[A-Za-z0-9_-]{16,}"), REMOVED),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), REMOVED),
    (re.compile(r"\$argon2\w*\$[^\s'\"]+"), REMOVED),
    # What `secrets.token_urlsafe(32)` gives: the tokens of sessions, tickets and invitations.
    (re.compile(r"(?<![\w-])(?=[a-z0-9_-]*[A-Z])[A-Za-z0-9_-]{43}(?![\w-])"), REMOVED),
    (re.compile(r"""\b[bB](?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""), REMOVED),
    (re.compile(r"://[^/\s@'\"]*@"), f"://{REMOVED}@"),
)
_EMAIL = re.compile(r"""[^\s@,;:<>()\[\]'"=&?/|]{1,320}(?:@|%40)[^\s@,;:<>()\[\]'"=&?/|.]+(?:\.[\w-]+)+""")


def scrub(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it, without anything that must not be logged, however deep it lies."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if _is_binary(value):
        return REMOVED
    if depth < NESTING_MAX and isinstance(value, Mapping):
        return {
            scrub_text(str(name)): REMOVED if _is_secret_name(name) else scrub(item, depth + 1)
            for name, item in value.items()
        }
    if depth < NESTING_MAX and isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        if len(items) == 2 and _is_secret_name(items[0]):
            items[1] = b""  # a header as ASGI and httpx list it: bytes are removed
        return [scrub(item, depth + 1) for item in items]
    return scrub_text(value if isinstance(value, str) else repr(value))


def scrub_text(text: str) -> str:
    """A text without keys, e-mails, cookies, secrets, bytes and base64; cut where it gets longer than is useful."""
    if len(text) <= 42 and _WORD.fullmatch(text):
        return text
    for pattern in _LONG:
        text = pattern.sub(REMOVED, text)
    if len(text) > TEXT_CHARS_MAX:
        half = TEXT_CHARS_MAX // 2
        text = f"{text[:half]} […] {text[-half:]}"
    for secret, replacement in _SECRETS:
        text = secret.sub(replacement, text)
    return _EMAIL.sub(REMOVED, text) if "@" in text or "%40" in text else text


def _is_secret_name(name: Any) -> bool:
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    return isinstance(name, str) and name.lower().replace("_", "-") in SECRET_NAMES


def _is_binary(value: Any) -> bool:
    """Bytes in any form, and arrays: a decoded picture is one."""
    return isinstance(value, bytes | bytearray | memoryview) or (
        hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0
    )


# How a line is made --------------------------------------------------------------------------------


def _add_facts(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    facts = _facts.get() or {}
    for name in REQUEST_FACTS:
        if facts.get(name) is not None:
            line.setdefault(name, facts[name])
    return line


def _scrub_line(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    for copy in ("message", "asctime", "color_message"):  # left by other handlers, and by uvicorn
        line.pop(copy, None)
    clean: EventDict = scrub(line)
    return clean


def _renderers(log_format: str, *, colors: bool) -> Iterable[Processor]:
    if log_format == "json":
        return [structlog.processors.JSONRenderer(serializer=json.dumps)]
    return [
        _keep_to_one_line,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
    ]


def _keep_to_one_line(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """What somebody named with a line break or an escape sequence must not look like a line of ours."""
    return {
        name: value if name in ("exception", "stack") or not isinstance(value, str) else _escape_controls(value)
        for name, value in line.items()
    }


def _escape_controls(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; one that cannot be formatted is named by its place, where stdlib would print its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name is stdlib's
        error = sys.exc_info()[0]
        try:
            name = error.__name__ if error is not None else "an error"
            self.stream.write(f"a log line of {record.pathname}:{record.lineno} was lost: {name}\n")
        except (OSError, ValueError):
            pass  # the stream itself is gone


def _is_plain(handler: logging.Handler) -> bool:
    return type(handler) is logging.StreamHandler


def _take_over_libraries() -> None:
    """Loggers that brought a console handler of their own (uvicorn, Streamlit, Ultralytics) write through ours."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger) and any(map(_is_plain, logger.handlers)):
            logger.handlers = [handler for handler in logger.handlers if not _is_plain(handler)]
            logger.propagate = True
    # Lines with raw paths and addresses: ours has the route, and no log has a customer's image_url. The last one lists
    # at every start what it has found.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("httpx", "httpcore", "urllib3", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)
