"""Canaries: a new version of a model for a share of the accounts, before it is everybody's.

`versions/<model>/canary.json` in the weights folder names the version and the share, so that all processes agree at
once. Which account belongs to the share follows from its id and the version alone: a customer meets one of the two
versions, always the same, and another new version finds other customers first.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.inference.shared_json import SharedJson

PERCENT_MAX = 100
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Canary:
    """A version for `percent` of the accounts. A promoted one is for everybody, and is the model's file."""

    sha256: str
    percent: int
    promoted: bool = False

    def takes(self, account_id: str) -> bool:
        """Whether an account belongs to the share."""
        digest = hashlib.sha256(f"{self.sha256}|{account_id}".encode()).digest()
        return int.from_bytes(digest[:8]) % 100 < self.percent


class Canaries:
    """The canaries of all models, and which of them this process has loaded and warm."""

    def __init__(self, versions_dir: Path) -> None:
        self._versions_dir = versions_dir
        self._files: dict[str, SharedJson[Canary | None]] = {}
        self._warm: dict[str, str] = {}

    def get(self, name: str) -> Canary | None:
        """The canary of a model, promoted ones too."""
        return self._file(name).read()

    def running(self, name: str) -> Canary | None:
        """The canary of a model, unless it was promoted."""
        canary = self.get(name)
        return None if canary is None or canary.promoted else canary

    def admit(self, name: str, sha256: str) -> None:
        """Let this process serve a canary's version: it is loaded and warm here."""
        self._warm[name] = sha256

    def is_warm(self, name: str, sha256: str) -> bool:
        """Whether this process may serve a canary's version."""
        return self._warm.get(name) == sha256

    def put(self, name: str, canary: Canary) -> None:
        """Let a model have this canary from now on. Raises `OSError`."""
        self._file(name).write(asdict(canary))

    def remove(self, name: str) -> None:
        """Let a model have none. Raises `OSError`."""
        self._file(name).remove()

    def _file(self, name: str) -> SharedJson[Canary | None]:
        file = self._files.get(name)
        if file is None:
            path = self._versions_dir / name / "canary.json"
            file = self._files[name] = SharedJson[Canary | None](path, _parse, None)
        return file


def _parse(data: Any) -> Canary:
    try:
        canary = Canary(str(data["sha256"]), int(data["percent"]), bool(data.get("promoted", False)))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no canary ({error})") from None
    if not _SHA256.fullmatch(canary.sha256) or not 1 <= canary.percent <= PERCENT_MAX:
        raise ValueError("it names no version and percent")
    return canary
