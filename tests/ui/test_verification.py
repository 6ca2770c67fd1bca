"""What can be wrong with a ledger has words, in both languages."""

from __future__ import annotations

import re

import pytest

from core.ledger.verify import PROBLEM_CODES, Problem
from ui import i18n
from ui.verification import explain_problem


@pytest.mark.parametrize("language", ["en", "zh_CN"])
@pytest.mark.parametrize("seq", [None, 1234])
@pytest.mark.parametrize("code", sorted(PROBLEM_CODES))
def test_every_problem_has_words(code: str, seq: int | None, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each code of a problem is explained whole, with the entry's number where it names one."""
    monkeypatch.setattr(i18n, "language", lambda: language)
    words = explain_problem(Problem(code, "acct_1", seq, "for the log"))
    assert "for the log" not in words
    assert not re.search(r"[{}]", words)
    assert (re.search(r"[\u4e00-\u9fff]", words) is not None) == (language == "zh_CN")
    if code in {"gap", "seal", "seal_gap", "head", "balance", "postings", "truncated", "hold"}:
        assert ("?" if seq is None else "1,234") in words
