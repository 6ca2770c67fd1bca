"""Reading what a program sends: JSON, multipart or a bare picture, within bounds that hold before it is read."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from core.errors import (
    EngineBusyError,
    ImageEmptyError,
    InvalidRequestError,
    RequestTooLargeError,
    RequestTooSlowError,
    UnsupportedBodyError,
    VisionMeterError,
)
from core.jobs.blobs import hash_bytes
from core.services.application import Application
from core.services.stages import Stages
from gateway.auth import require_once
from gateway.problems import describe_errors
from gateway.shapes import ImageIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

M = TypeVar("M", bound=BaseModel)

# Bodies that are in memory at the same time; each is there up to three times over while it is taken apart.
BODIES_BYTES_MAX = 200_000_000
# Of these, what one account may have there: somebody who sends and sends leaves room for the others.
ACCOUNT_SHARE = 0.6
# A body has so long, and a second more for so many bytes of it; and each piece comes within so long of the one before.
BODY_TIMEOUT_S = 60.0
BODY_BYTES_PER_S_MIN = 100_000
PIECE_TIMEOUT_S = 20.0
# A request without pictures: an API key's name and limits.
SMALL_BODY_BYTES_MAX = 64_000
# Commas and brackets of a JSON body. The largest honest one has a thousand; each may become 60 bytes of memory.
JSON_SIGNS_MAX = 50_000
FIELDS_MAX = 60
_FIELD_BYTES_MAX = 16_384
_DATA_URL = re.compile(r"data:[\w/+.-]{0,100};base64,")
_FILE_FIELDS = ("file", "image", "files", "images")


@dataclass(frozen=True, slots=True)
class Body:
    """What was sent: parameters, and either pictures' bytes or the places that they come from."""

    fields: dict[str, Any]
    files: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a request. `facts` says which one it is for the idempotency key, also before it is fetched."""

    name: str
    facts: Mapping[str, str]
    data: bytes | None = None
    url: str | None = None


class BodyBudget:
    """How many bytes of bodies are in memory; used by the event loop alone."""

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._of_account: Counter[str] = Counter()

    @contextmanager
    def reserve(self, account_id: str) -> Iterator[Reservation]:
        """Count what a request takes, and give it back at the end of the block."""
        reservation = Reservation(self, account_id)
        try:
            yield reservation
        finally:
            self._bytes -= reservation.bytes
            self._of_account[account_id] -= reservation.bytes
            if not self._of_account[account_id]:
                del self._of_account[account_id]

    def take(self, account_id: str, count: int) -> None:
        """Raises `EngineBusyError` when so many bytes more do not fit, or are more than an account's share."""
        if self._bytes + count > self._bytes_max:
            raise EngineBusyError("Too much is being uploaded at once: send it again in a few seconds.")
        if self._of_account[account_id] + count > self._bytes_max * ACCOUNT_SHARE:
            raise EngineBusyError("This account is uploading too much at once: send it again in a few seconds.")
        self._bytes += count
        self._of_account[account_id] += count


class Reservation:
    """The bytes that one request has taken of a `BodyBudget`."""

    def __init__(self, budget: BodyBudget, account_id: str) -> None:
        self._budget = budget
        self._account_id = account_id
        self.bytes = 0

    def take(self, count: int) -> None:
        """Raises `EngineBusyError` when they do not fit."""
        self._budget.take(self._account_id, count)
        self.bytes += count


async def read_bytes(request: Request, reservation: Reservation, bytes_max: int) -> bytes:
    """The body.

    Raises `RequestTooLargeError` as soon as it is clear, `RequestTooSlowError` when it does not come in time, and
    `EngineBusyError` when there is no room.
    """
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    pieces: list[bytes] = []
    total = 0
    latest = anyio.current_time() + BODY_TIMEOUT_S
    try:
        with anyio.fail_after(PIECE_TIMEOUT_S) as patience:
            async for piece in request.stream():
                total += len(piece)
                if total > bytes_max:
                    raise _too_large(bytes_max)
                reservation.take(len(piece))
                pieces.append(piece)
                latest += len(piece) / BODY_BYTES_PER_S_MIN
                patience.deadline = min(anyio.current_time() + PIECE_TIMEOUT_S, latest)
    except TimeoutError:
        raise RequestTooSlowError(
            "The body did not come in time, and nothing was taken: send it again, in smaller parts on a slow line."
        ) from None
    return b"".join(pieces)


async def read_small_json(request: Request, reservation: Reservation) -> dict[str, Any]:
    """A JSON object of a few fields; no body at all has none."""
    data = await read_bytes(request, reservation, SMALL_BODY_BYTES_MAX)
    return _parse_json(data) if data.strip() not in (b"", b"null") else {}


async def read_body(request: Request, reservation: Reservation, bytes_max: int) -> Body:
    """A body of JSON, multipart or `image/*`. Raises `UnsupportedBodyError` for any other type."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    is_json = content_type == "application/json" or content_type.endswith("+json")
    if not (is_json or content_type == "multipart/form-data" or content_type.startswith("image/")):
        raise UnsupportedBodyError(
            "Send JSON (application/json), a form (multipart/form-data) or a bare picture (image/…).",
            content_type=content_type[:80],
        )
    data = await read_bytes(request, reservation, bytes_max)
    # A parameter in the address goes for every kind of body; what the body says goes before it.
    fields = _gather(request.query_params.multi_items())
    if is_json:
        return Body({**fields, **_parse_json(data)}, [])
    if content_type.startswith("image/"):
        return Body(fields, [(fields.pop("name", ""), data)])
    form_fields, files = await _parse_form(request, data)
    return Body({**fields, **form_fields}, files)


def parse_fields(model: type[M], fields: Mapping[str, Any]) -> M:
    """Fields as a model. Raises `InvalidRequestError` that names each wrong one."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        errors = describe_errors(error.errors(include_input=False, include_url=False, include_context=False))
        detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors[:3])
        raise InvalidRequestError(f"Some of the request cannot be read: {detail}.", errors=errors) from None


def picture_of_file(name: str, data: bytes) -> Picture:
    """A picture that was uploaded as it is."""
    return Picture(name[:200] or "image", {"sha256": hash_bytes(data)}, data=data)


def picture_of_json(image: ImageIn) -> Picture:
    """A picture that JSON names by address or holds as base64. Raises `InvalidRequestError`."""
    if (image.image_url is None) == (image.image is None):
        raise InvalidRequestError(
            "A picture needs image_url (its address) or image (base64), and not both.",
            errors=[{"field": "image", "message": "image_url or image"}],
        )
    if image.image_url is not None:
        return Picture(
            (image.name or image.image_url.split("?")[0].rsplit("/", 1)[-1] or "image")[:200],
            {"url": image.image_url},
            url=image.image_url,
        )
    assert image.image is not None
    return picture_of_file(image.name or "image", _decode_base64(image.image))


@contextmanager
def naming_picture(position: int, count: int) -> Iterator[None]:
    """Whatever is wrong with one of several pictures says which one it is."""
    try:
        yield
    except VisionMeterError as error:
        if count > 1:
            error.details["errors"] = [{"field": f"images.{position}", "message": error.message}]
            error.message = f"Picture {position + 1} of {count}: {error.message}"
        raise


def load_picture(app: Application, picture: Picture, stages: Stages) -> bytes:
    """The bytes of a picture, fetched when it is named by its address. Raises what `Fetcher.fetch` raises."""
    if picture.data is not None:
        return picture.data
    assert picture.url is not None
    with stages.measure("fetch"):
        return app.fetcher.fetch(picture.url, bytes_max=app.settings.image_bytes_max).data


def _parse_json(data: bytes) -> dict[str, Any]:
    # Looked for before anything is built: a hundred megabytes of empty lists would be gigabytes.
    if sum(map(data.count, (b",", b"[", b"{"))) > JSON_SIGNS_MAX:
        raise InvalidRequestError(
            "The body has more fields than a request of ours can have: send pictures and parameters only.",
            errors=[{"field": "body", "message": f"at most {JSON_SIGNS_MAX} commas and brackets"}],
        )
    try:
        # JSON between programs is UTF-8 (RFC 8259): `json.loads` would guess at UTF-16, which passes the look below.
        fields = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidRequestError(
            'The body is no JSON object: send one such as {"image_url": "https://…"}.',
            errors=[{"field": "body", "message": "a JSON object"}],
        )
    # Only an escape can say what is no text: nothing is looked through twice for a picture of many megabytes.
    if b"\\u" in data:
        _require_text(fields)
    return fields


def require_text(request: Request) -> None:
    """A NUL character is in no text that a database keeps. One in a path finds nothing; one in a query is refused.

    Raises `HTTPException` (404) or `InvalidRequestError`.
    """
    if any("\0" in str(value) for value in request.path_params.values()):
        raise HTTPException(404)
    _require_text(*(text for pair in request.query_params.multi_items() for text in pair))


def _require_text(*values: Any) -> None:
    """Raise `InvalidRequestError` for text, anywhere in some values, with a NUL character or half a surrogate pair."""
    left = list(values)
    while left:
        value = left.pop()
        if isinstance(value, str):
            if "\0" in value or not _is_unicode(value):
                raise InvalidRequestError(
                    "The request holds text with a NUL character or half of a surrogate pair: leave it out.",
                    errors=[{"field": "body", "message": "text"}],
                )
        elif isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _parse_form(request: Request, data: bytes) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    async def stream() -> AsyncIterator[bytes]:
        yield data

    parser = MultiPartParser(
        request.headers,
        stream(),  # type: ignore[arg-type]  # Starlette asks for a generator and iterates
        max_files=10_000,
        max_fields=FIELDS_MAX,
        max_part_size=_FIELD_BYTES_MAX,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AssertionError) as error:
        message = error.message if isinstance(error, MultiPartException) else "it is not well-formed"
        raise InvalidRequestError(
            f"The form cannot be read ({message}): send it as your HTTP library makes it.",
            errors=[{"field": "body", "message": "multipart/form-data"}],
        ) from None
    texts: list[tuple[str, str]] = []
    files = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in _FILE_FIELDS:
                    raise InvalidRequestError(
                        f"The form has a file under another name: call it one of {', '.join(_FILE_FIELDS)}.",
                        errors=[{"field": name[:80], "message": "no such file field"}],
                    )
                files.append((value.filename or "", await value.read()))
            else:
                texts.append((name, value))
    finally:
        await form.close()
    fields = _gather(texts)
    _require_text(fields, *(name for name, _data in files))
    return fields, files


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require_once(pairs)
    return dict(pairs)


def _gather(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Fields by name; a list is sent as several of one name. Raises `InvalidRequestError` for others that are."""
    require_once(pairs)
    fields: dict[str, Any] = {}
    for name, value in pairs:
        fields[name] = f"{fields[name]},{value}" if name in fields else value
    return fields


def _decode_base64(text: str) -> bytes:
    match = _DATA_URL.match(text)
    try:
        data = base64.b64decode("".join(text[match.end() if match else 0 :].split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(
            "image is no base64: encode the file's bytes, or send it as multipart or as it is.",
            errors=[{"field": "image", "message": "base64"}],
        ) from None
    if not data:
        raise ImageEmptyError("The picture is empty: send its bytes.")
    return data


def _too_large(bytes_max: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"A request has at most {bytes_max / 1e6:.0f} MB here: send smaller pictures, or fewer at once.",
        bytes_max=bytes_max,
    )
