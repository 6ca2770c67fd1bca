"""What the advisor says, word for word: never more than the comparison shows."""

from __future__ import annotations

import re

import pytest

from core.db import new_row
from core.jobs.tables import Advice
from core.services.advice_verdict import AdviceView, compare_advice, judge
from tests.core.services.test_advisor import measured, people
from ui import i18n
from ui.advisor import sentence

LARGE = people(0, 1, 2)
CASES = {
    "same": (
        [LARGE, people(5, classes=1)],
        [LARGE, people(5, classes=1)],
        "YOLOv8n · 320 px finds the same 4 objects as YOLOv8n · 640 px for 30 % less. Seen on 2 pictures.",
    ),
    "same and a little more": (
        [people(*range(10))],
        [people(*range(11))],
        "YOLOv8n · 320 px finds all 10 objects of YOLOv8n · 640 px, and 1 object more, for 30 % less. "
        "Seen on 1 picture.",
    ),
    "loses some": (
        [LARGE, people(5, classes=1)],
        [people(0), people(5, classes=1)],
        "Nothing cheaper is as good as YOLOv8n · 640 px. Nearest is YOLOv8n · 320 px: it finds 2 of 4 objects for "
        "30 % less and misses 2 person. Seen on 2 pictures.",
    ),
    "loses some and finds others": (
        [LARGE],
        [people(0, 1, 7)],
        "Nothing cheaper is as good as YOLOv8n · 640 px. Nearest is YOLOv8n · 320 px: it finds 2 of 3 objects for "
        "30 % less and misses 1 person. It also finds 1 object that YOLOv8n · 640 px does not. Seen on 1 picture.",
    ),
    "finds much else": (
        [people(0)],
        [LARGE],
        "Nothing cheaper is as good as YOLOv8n · 640 px. YOLOv8n · 320 px finds all 1 object for 30 % less, but also "
        "2 objects that YOLOv8n · 640 px does not. Seen on 1 picture.",
    ),
    "nothing to lose": (
        [people()],
        [LARGE],
        "YOLOv8n · 640 px finds nothing on these pictures at this confidence, so nothing can be lost: try a lower "
        "confidence or other pictures. Seen on 1 picture.",
    ),
    "one failed": (
        [LARGE, LARGE],
        [LARGE, None],
        "YOLOv8n · 320 px finds the same 3 objects as YOLOv8n · 640 px for 30 % less. Seen on 1 of 2 pictures; the "
        "others failed and were given back.",
    ),
    "all failed": (
        [None],
        [LARGE],
        "There is nothing to compare: no picture has a result of YOLOv8n · 640 px and of another one. What failed was "
        "given back.",
    ),
}


@pytest.mark.parametrize(("reference", "other", "told"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("language", ["en", "zh_CN"])
def test_the_sentence(reference, other, told: str, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of answer; in Chinese with the same numbers."""
    monkeypatch.setattr(i18n, "language", lambda: language)
    view = AdviceView(
        new_row(Advice, account_id="a", actor="u"), measured(640, 1000, *reference), (measured(320, 700, *other),)
    )
    said = sentence(view, judge(compare_advice(view, confidence_min=0.25))).replace("\N{NO-BREAK SPACE}", " ")
    if language == "en":
        assert said == told
    else:
        assert re.search(r"[\u4e00-\u9fff]", said)
        assert sorted(re.findall(r"[\d.]+", said)) == sorted(re.findall(r"\d[\d.]*(?<!\.)", told))
