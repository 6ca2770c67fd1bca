"""What an operator reads about weights is advice for the kind of file that he brought."""

from __future__ import annotations

import pytest

from core.errors import WeightsRefusedError
from gateway.cli_quantize import describe_claim
from tests.quantized import MANIFEST
from ui.weights_words import explain_to_operator, loss_words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("quantized", "This quantized file is not one that is served here: It failed"),
        ("no_openvino", "A quantized file runs in OpenVINO only, which is not installed here."),
        (None, "This file does not run as a detection model here."),
    ],
)
def test_why_a_file_is_refused(reason: str | None, words: str) -> None:
    """By the reason, and only a checkpoint is to be exported again."""
    assert explain_to_operator(WeightsRefusedError("It failed.", reason=reason)).startswith(words)


def test_what_is_lost_is_what_the_file_says() -> None:
    """In the portal and on the command line: from which version, for which class it is worst, and whether that version
    is known."""
    said = loss_words("0123456789ab", MANIFEST, origin_known=False)
    assert "Its file says that it was made from 5f5f5f5f5f5f, and finds 41 of 43 objects" in said
    assert "Of the worst class, Fall, it finds 3 of 4. The version that it was made from is none that is known" in said
    typed = describe_claim(MANIFEST, origin_known=False)
    assert typed.startswith("Its file says that it was made from 5f5f5f5f5f5f: INT8 finds 41 of the 43 objects of FP32")
    assert "; of the worst class, Fall, 3 of 4; in 5 pictures" in typed
    assert typed.endswith(" Version 5f5f5f5f5f5f is none that is known here.")
    for words in (loss_words("0123456789ab", MANIFEST, origin_known=True), describe_claim(MANIFEST, origin_known=True)):
        assert "known" not in words
