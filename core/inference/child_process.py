"""Work in a process of its own, which may end without harm to this one."""

from __future__ import annotations

from pathlib import Path

# Where `python -m core.…` finds our modules.
ROOT = Path(__file__).resolve().parents[2]


def last_words(said: str, status: int) -> str:
    """Why a process ended with a status: the last line of what it wrote to its standard error."""
    return (said.strip().splitlines() or [f"the process ended with {status}"])[-1]
