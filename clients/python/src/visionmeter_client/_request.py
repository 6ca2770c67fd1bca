"""One request as a value: what is sent, and how its answer is read. The transports know nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from visionmeter_client._reading import load_json, read

T = TypeVar("T")

IDEMPOTENCY_KEY_CHARACTERS_MAX = 255


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A request that may be sent again as it is: its body is in memory and its idempotency key is fixed."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    form: Mapping[str, str] = field(default_factory=dict)
    parts: Sequence[tuple[str, tuple[str, bytes, str]]] = ()

    def arguments(self) -> dict[str, Any]:
        """What `httpx` takes for it, beside method and path."""
        return {
            "params": dict(self.query),
            "headers": dict(self.headers),
            "json": self.json,
            "data": dict(self.form) or None,
            "files": list(self.parts) or None,
        }


def reader(kind: type[T], member: str | None = None) -> Callable[[httpx.Response], T]:
    """Reads an answer's JSON, or one member of it, as a type."""

    def read_answer(response: httpx.Response) -> T:
        document = load_json(response.content)
        if member is not None and isinstance(document, dict):
            document = document.get(member)
        return read(kind, document)

    return read_answer


def spending(idempotency_key: str | None) -> dict[str, str]:
    """The header that makes a spending request safe to send again; a key is made where the caller gives none."""
    if idempotency_key is None:
        idempotency_key = secrets.token_hex(16)
    if not 1 <= len(idempotency_key) <= IDEMPOTENCY_KEY_CHARACTERS_MAX or not all(
        "!" <= character <= "~" for character in idempotency_key
    ):
        raise ValueError("An idempotency key is 1 to 255 visible ASCII characters.")
    return {"Idempotency-Key": idempotency_key}
