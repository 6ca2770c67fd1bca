"""What every expected failure has: a stable `code`, a message, and facts."""

from __future__ import annotations

from typing import Any


class VisionMeterError(Exception):
    """An expected failure. `code` is stable, `details` holds JSON-serialisable facts."""

    code = "error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BackupError(VisionMeterError):
    """A back-up cannot be made or restored; what was there is as it was."""

    code = "backup_refused"


class ConfigError(VisionMeterError):
    """A setting is wrong; the message names it and says what is accepted."""

    code = "config"
