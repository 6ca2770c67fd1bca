"""Receipts: the list of an account's charges, and one charge with everything that it takes to check it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlmodel import Session

from core.csv_text import plain_cell, to_csv
from core.identity import api_keys, users
from core.identity.callers import Caller
from core.jobs import jobs
from core.jobs.results import count_free_repeats, list_free_repeats
from core.jobs.tables import JobImage
from core.ledger import corrections, ledger, seal
from core.ledger.tables import Entry, Hold
from core.money import from_millitokens, to_millitokens
from core.pricing import receipts
from core.pricing.receipts import Computation, Cursor, ReceiptFilter
from core.pricing.tables import PriceBook, Receipt
from core.services.application import Application

REPEATS_SHOWN_MAX = 20
_ROWS_PER_READ = 1000
_CSV_COLUMNS = (
    *("receipt", "time_utc", "picture", "image_sha256", "image_width_px", "image_height_px", "model", "model_version"),
    *("img_size_px", "input_width_px", "input_height_px"),
    *("price_version", "alpha", "beta", "minimum_tokens"),
    *("discount_percent", "floor_tokens", "charged_tokens", "refunded_tokens", "net_tokens", "quote", "hold", "entry"),
    # What came later stands last: who reads by column finds the others where they were.
    *("caller", "caller_id", "tile_px", "tiles", "tiles_failed"),
)


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """A receipt in the list; `refunded_mt` of it was given back later, in milli-tokens."""

    receipt: Receipt
    refunded_mt: int

    @property
    def net_mt(self) -> int:
        """What the charge came to after its refunds."""
        return self.receipt.amount_mt - self.refunded_mt


@dataclass(frozen=True, slots=True)
class ReceiptPage:
    """One page of the list, newest first; `end` is where the next page begins, None on the last."""

    lines: Sequence[ReceiptLine]
    end: Cursor | None


@dataclass(frozen=True, slots=True)
class ReceiptView:
    """A receipt with all that belongs to it.

    `entry` is the ledger's line that took the amount, `digest` its seal and `previous_digest` that of the line before
    (None while it is not sealed). `price_note` is the note of its price list, which names the measured table of a
    calibrated one. `repeats` are the newest images that were answered free because of this charge, `repeat_count` of
    them in all. `names` gives addresses to the ids of the account's people.
    """

    receipt: Receipt
    price_note: str
    computation: Computation
    hold: Hold
    entry: Entry
    digest: str | None
    previous_digest: str | None
    refunds: Sequence[Entry]
    image: JobImage | None
    repeats: Sequence[JobImage]
    repeat_count: int
    names: Mapping[str, str]

    @property
    def recomputed_mt(self) -> int:
        """What the receipt comes to when it is computed afresh, in milli-tokens."""
        return to_millitokens(self.computation.amount)

    @property
    def agrees(self) -> bool:
        """Whether receipt, ledger and fresh computation name the same amount and the same network input."""
        receipt, plan = self.receipt, self.computation.plan
        return self.recomputed_mt == receipt.amount_mt == self.entry.amount_mt == self.hold.captured_mt and (
            plan.whole.height,
            plan.whole.width,
            len(plan.tiles),
        ) == (receipt.input_height, receipt.input_width, receipt.tiles)

    @property
    def net_mt(self) -> int:
        """What the charge came to after its refunds, in milli-tokens."""
        return self.receipt.amount_mt - self.hold.refunded_mt


def list_receipts(
    app: Application, user: Caller, wanted: ReceiptFilter | None = None, *, after: Cursor | None = None, limit: int = 50
) -> ReceiptPage:
    """A page of the account's receipts, newest first; `after` is the `end` of the page before."""
    with app.db.read() as session:
        rows = receipts.list_receipts(session, user.account_id, wanted or ReceiptFilter(), after=after, limit=limit + 1)
        shown = rows[:limit]
        refunded = corrections.find_refunded(session, user.account_id, [receipt.hold_id for receipt in shown])
    end = Cursor(shown[-1].created_at, shown[-1].id) if len(rows) > limit else None
    return ReceiptPage([ReceiptLine(receipt, refunded.get(receipt.hold_id, 0)) for receipt in shown], end)


def receipts_csv(app: Application, user: Caller, wanted: ReceiptFilter) -> Iterator[str]:
    """All receipts that are wanted as CSV, newest first, in pieces; times in UTC, amounts in tokens.

    `caller` is the API key (its name and prefix) or the address of the person that caused the charge. Each piece is
    read in a transaction of its own, so a slow reader keeps none open.
    """
    yield to_csv([_CSV_COLUMNS])
    after: Cursor | None = None
    while True:
        page = list_receipts(app, user, wanted, after=after, limit=_ROWS_PER_READ)
        if page.lines:
            callers = _find_callers(app, user.account_id, page.lines)
            yield to_csv([_csv_row(line, *callers[line.receipt.entry_seq]) for line in page.lines])
        if page.end is None:
            return
        after = page.end


def get_receipt(app: Application, user: Caller, receipt_id: str) -> ReceiptView:
    """One receipt. Raises `ReceiptNotFoundError` when the account has none of this id."""
    with app.db.read() as session:
        return _view(session, receipts.get_receipt(session, user.account_id, receipt_id))


def find_receipt(app: Application, user: Caller, hold_id: str) -> ReceiptView | None:
    """The receipt of a hold; None when nothing was charged by it, or it is another account's."""
    with app.db.read() as session:
        receipt = receipts.find_receipt(session, user.account_id, hold_id)
        return None if receipt is None else _view(session, receipt)


def _view(session: Session, receipt: Receipt) -> ReceiptView:
    account_id = receipt.account_id
    hold = session.get_one(Hold, receipt.hold_id)
    entries = ledger.list_hold_entries(session, hold.id)
    entry = next(entry for entry in entries if entry.kind == "capture")
    digest = seal.get_digest(session, account_id, entry.seq)
    return ReceiptView(
        receipt=receipt,
        price_note=session.get_one(PriceBook, receipt.price_version).note,
        computation=receipts.compute_receipt(receipt),
        hold=hold,
        entry=entry,
        digest=digest,
        previous_digest=seal.get_digest(session, account_id, entry.seq - 1) if digest else None,
        refunds=[entry for entry in entries if entry.kind == "refund"],
        image=jobs.find_image(session, hold.id),
        repeats=list_free_repeats(session, account_id, hold.charge_key, limit=REPEATS_SHOWN_MAX),
        repeat_count=count_free_repeats(session, account_id, hold.charge_key),
        names={**users.actor_names(session, account_id), **api_keys.key_names(session, account_id)},
    )


def _find_callers(
    app: Application, account_id: str, lines: Sequence[ReceiptLine]
) -> Mapping[int | None, tuple[str, str]]:
    """Who caused each charge, in words and by id, by the number of its entry."""
    seqs = [seq for line in lines if (seq := line.receipt.entry_seq) is not None]
    with app.db.read() as session:
        actors = ledger.find_actors(session, account_id, seqs)
        ids = set(actors.values())
        names = {**users.names_of(session, ids), **api_keys.names_of(session, ids)}
    return {seq: (names.get(actor, ""), actor) for seq, actor in actors.items()}


def _csv_row(line: ReceiptLine, caller: str, caller_id: str) -> Sequence[object]:
    receipt = line.receipt
    return (
        receipt.id,
        receipt.created_at.isoformat(timespec="seconds"),
        plain_cell(receipt.image_name),
        receipt.image_sha256,
        receipt.image_width,
        receipt.image_height,
        plain_cell(receipt.model),
        plain_cell(receipt.model_version),
        receipt.img_size,
        receipt.input_width,
        receipt.input_height,
        plain_cell(receipt.price_version),
        receipt.alpha,
        receipt.beta,
        receipt.minimum,
        receipt.discount_percent,
        from_millitokens(receipt.floor_mt),
        from_millitokens(receipt.amount_mt),
        from_millitokens(line.refunded_mt),
        from_millitokens(line.net_mt),
        receipt.quote_id,
        receipt.hold_id,
        receipt.entry_seq,
        plain_cell(caller),
        caller_id,
        receipt.tile_px or "",
        receipt.tiles,
        receipt.tiles_failed,
    )
