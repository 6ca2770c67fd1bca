"""What the commands share: host and key from options or the environment, and a sentence instead of a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Any, NoReturn

import typer

from visionmeter_client.client import VisionMeter
from visionmeter_client.errors import ApiError, InsufficientTokensError, VisionMeterError

SOME_FAILED = 1
REFUSED = 2
INTERRUPTED = 130

HostOption = Annotated[
    str | None, typer.Option("--host", envvar="VISIONMETER_HOST", metavar="ADDRESS", help="Where VisionMeter is.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="VISIONMETER_API_KEY",
        metavar="KEY",
        show_default=False,
        help="Your API key. Other users of this machine can see an option: prefer the environment.",
    ),
]
AllowHttpOption = Annotated[
    bool, typer.Option("--allow-http", help="Send the key unencrypted to another machine, on a network you trust.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@contextmanager
def open_client(
    host: str | None, key: str | None, allow_http: bool, *, needs_key: bool = True
) -> Iterator[VisionMeter]:
    """A client for the body of a command; what VisionMeter refuses ends the command with one sentence."""
    if not host:
        fail("Say where VisionMeter is: --host https://…, or VISIONMETER_HOST in the environment.")
    if needs_key and not key:
        fail("Give an API key: VISIONMETER_API_KEY in the environment, or --key. The page API keys makes one.")
    try:
        client = VisionMeter(host, key or None, allow_http=allow_http)
    except ValueError as error:
        fail(str(error).replace("say allow_http=True", "say --allow-http"))
    with client:
        try:
            yield client
        except VisionMeterError as error:
            fail(sentence(error))


def sentence(error: VisionMeterError) -> str:
    """What a person is told of an error, with what helps to ask for help."""
    if not isinstance(error, ApiError):
        return str(error)
    where = ""
    if isinstance(error, InsufficientTokensError) and error.top_up_url and error.top_up_url not in error.detail:
        where = f" Top up at {error.top_up_url}."
    request = f", request {error.request_id}" if error.request_id else ""
    return f"{error.detail}{where} [{error.code}{request}]"


def fail(text: str) -> NoReturn:
    """End the command as refused, with a sentence on the error stream."""
    typer.echo(text, err=True)
    raise typer.Exit(REFUSED)


def print_json(answer: Any) -> None:
    """An answer as JSON with its amounts as numbers."""
    document = [asdict(one) for one in answer] if isinstance(answer, tuple) else asdict(answer)
    typer.echo(json.dumps(document, indent=2, default=_as_json, ensure_ascii=False))


def _as_json(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else str(value)
