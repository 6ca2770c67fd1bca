"""Receipts are found by name, period and page, and each can be recomputed from its JSON alone."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from core.errors import ReceiptNotFoundError
from core.identity.callers import ApiCaller
from core.identity.tables import User
from core.pricing.receipts import Cursor, ReceiptFilter
from core.services import api_keys, audit, corrections, receipts
from core.services.api_key_settings import KeySettings
from core.services.application import Application
from core.services.job_runner import JobRunner
from core.services.receipt_document import receipt_json
from tests.core.services.charges import charge
from tests.core.services.helpers import change, pictures, run

START = datetime(2026, 10, 1, tzinfo=UTC)
SignUp = Callable[..., User]
StartRunner = Callable[[Application], JobRunner]


def names(page: receipts.ReceiptPage) -> list[str]:
    """The pictures of a page in its order."""
    return [line.receipt.image_name for line in page.lines]


def pages(app: Application, user: User, wanted: ReceiptFilter | None = None, *, limit: int) -> list[list[str]]:
    """All pages of the list from the newest to the oldest."""
    found: list[list[str]] = []
    after: Cursor | None = None
    while True:
        page = receipts.list_receipts(app, user, wanted, after=after, limit=limit)
        found.append(names(page))
        if page.end is None:
            return found
        after = page.end


def document(app: Application, user: User, receipt_id: str) -> dict[str, Any]:
    """The JSON of a receipt, as a program reads it."""
    made: dict[str, Any] = json.loads(receipt_json(app, user, receipt_id))
    return made


def price_from(made: dict[str, Any]) -> Decimal:
    """The price in tokens worked out from the document's own numbers and nothing else."""
    price, size = made["price"], made["network_input"]
    exact = (
        Decimal(price["alpha"])
        * Decimal(price["beta"])
        * size["height_px"]
        * size["width_px"]
        / price["reference_pixels"]
        * (100 - Decimal(price["discount_percent"]))
        / 100
    )
    rounded = exact.quantize(Decimal(price["rounding"]["step_tokens"]), ROUND_HALF_UP)
    return max(rounded, Decimal(price["minimum_tokens"])) + Decimal(price["floor_tokens"])


def input_side(made: dict[str, Any], side: str) -> int:
    """A side of the network input from the image's own sides."""
    image, stride, img_size = made["image"], made["network_input"]["stride_px"], made["model"]["img_size_px"]
    longest = max(image["width_px"], image["height_px"])
    length = image[side] if longest <= stride else max(1, round(image[side] * img_size / longest))
    return -(-length // stride) * stride


# The list ------------------------------------------------------------------------------------------


def test_pages_hold_every_receipt_once(any_app: Application, sign_up: SignUp) -> None:
    """Newest first, whatever shares a moment: pages of 7 over 30 receipts miss none and repeat none."""
    ann = sign_up(any_app)
    seed = 20_261_101
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when the test fails
    draw = random.Random(seed)
    made = [
        charge(any_app, ann, f"{number}.jpg", at=START + timedelta(seconds=draw.randrange(6))) for number in range(30)
    ]
    expected = [r.image_name for r in sorted(made, key=lambda r: (r.created_at, r.id), reverse=True)]
    found = pages(any_app, ann, limit=7)
    assert [len(page) for page in found] == [7, 7, 7, 7, 2]
    assert [name for page in found for name in page] == expected
    assert pages(any_app, ann, limit=30) == [expected]


def test_the_search_takes_parts_of_names(any_app: Application, sign_up: SignUp) -> None:
    """Any part, in any case; what is a wildcard to SQL is a letter here; a whole receipt number finds its own."""
    ann = sign_up(any_app)
    for number, name in enumerate(["line1/PCB_01.jpg", "line1/pcb-02.jpg", "100%.png", "大楼.jpg"]):
        made = charge(any_app, ann, name, at=START + timedelta(seconds=number))

    def search(text: str) -> list[str]:
        return names(receipts.list_receipts(any_app, ann, ReceiptFilter(text)))

    assert search("pcb") == ["line1/pcb-02.jpg", "line1/PCB_01.jpg"]
    assert search("b_0") == ["line1/PCB_01.jpg"]
    assert search("%") == ["100%.png"]
    assert search("楼") == [made.image_name]
    assert search(made.id) == [made.image_name]
    assert search("pcb\x00") == ["line1/pcb-02.jpg", "line1/PCB_01.jpg"]
    assert search("nothing like it") == []


def test_a_period_includes_its_start_only(any_app: Application, sign_up: SignUp) -> None:
    """`start` ≤ t < `end`: two adjacent periods share no receipt."""
    ann = sign_up(any_app)
    for hours in (0, 1, 2):
        charge(any_app, ann, f"{hours}", at=START + timedelta(hours=hours))
    hour = timedelta(hours=1)
    first = receipts.list_receipts(any_app, ann, ReceiptFilter(start=START, end=START + hour))
    rest = receipts.list_receipts(any_app, ann, ReceiptFilter(start=START + hour))
    assert (names(first), names(rest)) == (["0"], ["2", "1"])


def test_the_list_is_the_accounts_own(any_app: Application, sign_up: SignUp) -> None:
    """Nobody lists, opens or finds by its hold the receipt of another account, and unknown numbers look the same."""
    ann, bob = sign_up(any_app), sign_up(any_app, "bob@example.com")
    made = charge(any_app, ann, "secret.jpg")
    assert receipts.list_receipts(any_app, bob).lines == []
    assert receipts.find_receipt(any_app, bob, made.hold_id) is None
    own = receipts.find_receipt(any_app, ann, made.hold_id)
    assert own is not None
    assert own.receipt.id == made.id
    said = set()
    for receipt_id in (made.id, "rcpt_0123", "rcpt_\x00", "' OR 1=1 --", ""):
        with pytest.raises(ReceiptNotFoundError) as caught:
            receipts.get_receipt(any_app, bob, receipt_id)
        said.add(caught.value.message)
    assert len(said) == 1


def test_the_csv_is_the_list(any_app: Application, sign_up: SignUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every receipt that is wanted in the list's order, across reads; a name that begins like a formula is guarded."""
    monkeypatch.setattr(receipts, "_ROWS_PER_READ", 2)
    operator = sign_up(any_app, "operator@example.com")
    ann = sign_up(any_app)
    made = [charge(any_app, ann, name, at=START + timedelta(seconds=n)) for n, name in enumerate(["a", "=1+1", "c,d"])]
    charge(any_app, ann, "later", at=START + timedelta(days=1))
    corrections.refund_charge(any_app, operator, made[0].hold_id, 50, reason="blurred", idempotency_key="1")
    wanted = ReceiptFilter(end=START + timedelta(hours=1))
    rows = list(csv.DictReader("".join(receipts.receipts_csv(any_app, ann, wanted)).splitlines()))
    assert [row["picture"] for row in rows] == ["c,d", "'=1+1", "a"]
    assert [row["receipt"] for row in rows] == [made[2].id, made[1].id, made[0].id]
    oldest = rows[-1]
    assert (oldest["charged_tokens"], oldest["refunded_tokens"], oldest["net_tokens"]) == ("0.250", "0.050", "0.200")
    assert oldest["time_utc"] == "2026-10-01T00:00:00+00:00"


def test_the_csv_names_who_caused_each_charge(any_app: Application, sign_up: SignUp) -> None:
    """A person by his address, a key by its name and prefix, also when it ended; a name like a formula is guarded."""
    ann = sign_up(any_app)
    made = api_keys.create_key(any_app, ann, KeySettings("=cmd|' /C calc'!A0"))
    charge(any_app, ann, "portal.jpg", at=START)
    charge(any_app, ApiCaller(made.key), "camera.jpg", at=START + timedelta(seconds=1))
    api_keys.revoke_key(any_app, ann, made.key.id)
    rows = list(csv.DictReader("".join(receipts.receipts_csv(any_app, ann, ReceiptFilter())).splitlines()))
    assert [(row["picture"], row["caller"], row["caller_id"]) for row in rows] == [
        ("camera.jpg", f"'=cmd|' /C calc'!A0 ({made.key.prefix}…)", made.key.id),
        ("portal.jpg", ann.email, ann.id),
    ]


# One receipt ---------------------------------------------------------------------------------------


def test_the_price_follows_from_the_json_alone(
    any_app: Application, sign_up: SignUp, start_runner: StartRunner
) -> None:
    """A discounted batch with a share of the floor: each document's own numbers give its amount and its seal."""
    ann = sign_up(any_app)
    start_runner(any_app)
    files = {**pictures(9, side=320), **{f"tiny{n}.png": data for n, data in enumerate(pictures(1, 2, 16).values())}}
    view = run(any_app, ann, files)
    audit.seal_account(any_app, ann.account_id)
    lines = {line.receipt.hold_id: line.receipt.id for line in receipts.list_receipts(any_app, ann).lines}
    made = [document(any_app, ann, lines[image.hold_id or ""]) for image in view.images]
    assert {one["price"]["discount_percent"] for one in made} == {"5"}
    assert {one["price"]["batch_images_charged"] for one in made} == {10}
    assert sum(one["price"]["floor_mt"] for one in made) > 0, "the tiny picture must not make the batch cheaper"
    for one, image in zip(made, view.images, strict=True):
        assert price_from(one) == Decimal(one["charged_tokens"]) == Decimal(image.amount_mt) / 1000
        assert one["charged_mt"] == one["recomputation"]["amount_mt"] == image.amount_mt
        assert one["recomputation"]["agrees"] is True
        assert (one["network_input"]["height_px"], one["network_input"]["width_px"]) == (
            input_side(one, "height_px"),
            input_side(one, "width_px"),
        )
        assert one["job"] == {"id": view.job.id, "position": image.position}
        assert one["actor"] == {"id": ann.id, "email": "ann@example.com"}
        entry = one["ledger_entry"]
        line = json.dumps(list(entry["sealed"].values()), separators=(",", ":"))
        assert entry["digest"] == hashlib.sha256(f"{entry['previous_digest']}\n{line}".encode()).hexdigest()
        assert (entry["kind"], entry["sealed"]["amount_mt"]) == ("capture", image.amount_mt)


def test_every_amount_is_text_and_integer(any_app: Application, sign_up: SignUp) -> None:
    """No number of the document is a float, and each amount in tokens has its integer in milli-tokens beside it."""
    ann = sign_up(any_app)
    made = document(any_app, ann, charge(any_app, ann, "a.jpg").id)
    amounts = 0

    def look(part: object) -> None:
        nonlocal amounts
        assert not isinstance(part, float)
        if isinstance(part, dict):
            for name, value in part.items():
                if name.endswith("_mt"):
                    tokens = part.get(f"{name.removesuffix('_mt')}_tokens")
                    if tokens is not None:
                        amounts += 1
                        assert Decimal(tokens) * 1000 == value
                look(value)
        if isinstance(part, list):
            for value in part:
                look(value)

    look(made)
    assert amounts >= 10


def test_refunds_stand_on_the_receipt(any_app: Application, sign_up: SignUp) -> None:
    """Amount, reason and net of each refund; the operator's address is not given to the customer."""
    operator = sign_up(any_app, "operator@example.com")
    ann = sign_up(any_app)
    made = charge(any_app, ann, "blurred.jpg")
    for key, amount_mt in (("1", 100), ("2", 50)):
        corrections.refund_charge(
            any_app, operator, made.hold_id, amount_mt, reason=f"reason {key}", idempotency_key=key
        )
    view = receipts.get_receipt(any_app, ann, made.id)
    assert [(entry.amount_mt, entry.memo) for entry in view.refunds] == [(100, "reason 1"), (50, "reason 2")]
    assert (view.net_mt, view.agrees) == (100, True)
    text = receipt_json(any_app, ann, made.id)
    one = json.loads(text)
    assert (one["charged_mt"], one["refunded_mt"], one["net_mt"]) == (250, 150, 100)
    assert [refund["actor"] for refund in one["refunds"]] == [{"id": operator.id, "email": None}] * 2
    assert operator.email not in text
    (line,) = receipts.list_receipts(any_app, ann).lines
    assert (line.refunded_mt, line.net_mt) == (150, 100)


def test_free_repeats_point_to_the_receipt_that_paid(
    any_app: Application, sign_up: SignUp, start_runner: StartRunner
) -> None:
    """The same picture run again under another name makes no receipt; it stands on the first one."""
    ann = sign_up(any_app)
    start_runner(any_app)
    (data,) = pictures(1).values()
    run(any_app, ann, {"first.png": data})
    again = run(any_app, ann, {"again.png": data})
    (line,) = receipts.list_receipts(any_app, ann).lines
    view = receipts.get_receipt(any_app, ann, line.receipt.id)
    assert view.repeat_count == 1
    assert [(image.name, image.job_id) for image in view.repeats] == [("again.png", again.job.id)]


def test_a_fresh_receipt_is_not_sealed_yet(any_app: Application, sign_up: SignUp) -> None:
    """Before the chain has reached the entry there is no digest; after it, both digests are there."""
    ann = sign_up(any_app)
    made = charge(any_app, ann, "a.jpg")
    assert document(any_app, ann, made.id)["ledger_entry"]["digest"] is None
    audit.seal_account(any_app, ann.account_id)
    entry = document(any_app, ann, made.id)["ledger_entry"]
    assert len(entry["digest"]) == len(entry["previous_digest"]) == 64


@pytest.mark.parametrize(
    "tampering",
    ["amount_mt = 251", "input_width = 352", "beta = '1.1'", "floor_mt = 1", "image_width = 6400"],
)
def test_a_changed_receipt_does_not_agree(any_app: Application, sign_up: SignUp, tampering: str) -> None:
    """Whatever number of it is changed in the database, the receipt says that it does not agree."""
    ann = sign_up(any_app)
    made = charge(any_app, ann, "a.jpg")
    assert receipts.get_receipt(any_app, ann, made.id).agrees
    change(any_app, f"UPDATE receipt SET {tampering} WHERE id = :id", id=made.id)
    assert not receipts.get_receipt(any_app, ann, made.id).agrees
