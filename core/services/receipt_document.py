"""A receipt as a JSON document: whoever has it can work out the price, and the entry's seal, with nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from core.geometry import STRIDE_PX
from core.identity.callers import Caller
from core.ledger.seal import SEALED_COLUMNS
from core.ledger.tables import Entry
from core.money import from_millitokens, to_millitokens
from core.pricing.formula import REFERENCE_PIXELS
from core.services.application import Application
from core.services.receipts import ReceiptView, get_receipt
from core.tiles import OVERLAP_PERCENT

RECEIPT_FORMAT = "visionmeter-receipt/1"
FORMULA = (
    "amount = max(round(alpha * beta * pixels / reference_pixels * (100 - discount_percent) / 100), minimum) + floor, "
    "where pixels = height_px * width_px of the network input, plus that of each tile that did not fail"
)
DIGEST_RULE = (
    "SHA-256 in hexadecimal of previous_digest, a line feed, and the JSON array of the values in `sealed`, in its "
    "order, in ASCII with \\u escapes and no spaces between values"
)


def receipt_json(app: Application, user: Caller, receipt_id: str) -> str:
    """The document of one receipt as text. Raises `ReceiptNotFoundError`."""
    return json.dumps(make_document(get_receipt(app, user, receipt_id)), indent=2, ensure_ascii=False) + "\n"


def make_document(view: ReceiptView) -> dict[str, Any]:
    """The document of a receipt. Amounts are text in tokens and integers in milli-tokens (`_mt`); times are UTC."""
    receipt, hold = view.receipt, view.hold
    return {
        "format": RECEIPT_FORMAT,
        "id": receipt.id,
        "created_at": _time(receipt.created_at),
        "account_id": receipt.account_id,
        "actor": _person(view, view.entry.actor),
        **_amount("charged", receipt.amount_mt),
        **_amount("refunded", hold.refunded_mt),
        **_amount("net", view.net_mt),
        "image": {
            "name": receipt.image_name,
            "sha256": receipt.image_sha256,
            "sha256_of": "the decoded, upright pixels",
            "width_px": receipt.image_width,
            "height_px": receipt.image_height,
        },
        "model": {"name": receipt.model, "version": receipt.model_version, "img_size_px": receipt.img_size},
        "network_input": {
            "width_px": receipt.input_width,
            "height_px": receipt.input_height,
            "stride_px": STRIDE_PX,
        },
        "tiles": _tiles(view),
        "price": {
            "version": receipt.price_version,
            "note": view.price_note,
            "alpha": str(receipt.alpha),
            "beta": str(receipt.beta),
            "reference_pixels": REFERENCE_PIXELS,
            **_amount("minimum", to_millitokens(receipt.minimum)),
            "discount_percent": str(receipt.discount_percent),
            "batch_images_charged": receipt.batch_images,
            **_amount("floor", receipt.floor_mt),
            "rounding": {"mode": "half_up", "step_tokens": "0.001", "times": 1},
        },
        "recomputation": _recomputation(view),
        "quote_id": receipt.quote_id,
        "job": {"id": view.image.job_id, "position": view.image.position} if view.image else None,
        "hold": {
            "id": hold.id,
            "status": hold.status,
            **_amount("held", hold.amount_mt),
            **_amount("captured", hold.captured_mt),
            **_amount("refunded", hold.refunded_mt),
            "placed_at": _time(hold.created_at),
            "ended_at": _time(hold.ended_at) if hold.ended_at else None,
            "counts_in_day": hold.spend_day.isoformat() if hold.spend_day else None,
        },
        "ledger_entry": {
            "seq": view.entry.seq,
            "kind": view.entry.kind,
            "sealed": _sealed_values(view.entry),
            "previous_digest": view.previous_digest,
            "digest": view.digest,
            "digest_rule": DIGEST_RULE,
        },
        "refunds": [
            {
                "entry_seq": entry.seq,
                "created_at": _time(entry.created_at),
                **_amount("amount", entry.amount_mt),
                "reason": entry.memo,
                "actor": _person(view, entry.actor),
            }
            for entry in view.refunds
        ],
        "free_repeats": {
            "count": view.repeat_count,
            "newest": [
                {
                    "job_id": image.job_id,
                    "image_name": image.name,
                    "answered_at": _time(image.finished_at) if image.finished_at else None,
                }
                for image in view.repeats
            ],
        },
    }


def _recomputation(view: ReceiptView) -> dict[str, Any]:
    computation = view.computation
    shape = computation.plan.whole
    return {
        "formula": FORMULA,
        "steps": [
            {"step": "network_input", "height_px": shape.height, "width_px": shape.width},
            {"step": "pixels", "pixels": computation.pixels},
            {"step": "list_price", "exact_tokens": exact_text(computation.exact)},
            {"step": "less_discount", "exact_tokens": exact_text(computation.discounted)},
            {"step": "rounded", **_amount("amount", to_millitokens(computation.rounded))},
            {"step": "at_least_minimum", **_amount("amount", to_millitokens(computation.unit))},
            {"step": "plus_floor", **_amount("amount", view.recomputed_mt)},
        ],
        **_amount("amount", view.recomputed_mt),
        "agrees": view.agrees,
    }


def _tiles(view: ReceiptView) -> dict[str, Any] | None:
    receipt, tile = view.receipt, view.computation.plan.tile
    if tile is None:
        return None
    return {
        "tile_px": receipt.tile_px,
        "overlap_percent": OVERLAP_PERCENT,
        "count": receipt.tiles,
        "failed": receipt.tiles_failed,
        "network_input": {"width_px": tile.width, "height_px": tile.height},
    }


def _sealed_values(entry: Entry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in SEALED_COLUMNS}
    return {**values, "created_at": entry.created_at.astimezone(UTC).isoformat(timespec="microseconds")}


def _person(view: ReceiptView, actor: str) -> dict[str, str | None]:
    return {"id": actor, "email": view.names.get(actor)}


def _amount(name: str, amount_mt: int) -> dict[str, str | int]:
    return {f"{name}_tokens": str(from_millitokens(amount_mt)), f"{name}_mt": amount_mt}


def exact_text(tokens: Decimal) -> str:
    """Every digit of a price, without idle zeros."""
    digits = f"{tokens:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
