"""Failures of balances, holds, quotes, receipts and vouchers."""

from __future__ import annotations

from core.errors.base import VisionMeterError
from core.money import format_tokens


class InsufficientTokensError(VisionMeterError):
    """The balance does not cover the amount; nothing was held.

    `required_mt`, `available_mt` and `missing_mt` are integers in milli-tokens.
    """

    code = "insufficient_tokens"

    def __init__(self, *, required_mt: int, available_mt: int) -> None:
        missing_mt = required_mt - available_mt
        super().__init__(
            f"This needs {format_tokens(required_mt)} tokens and {format_tokens(available_mt)} are "
            f"available: top up {format_tokens(missing_mt)} tokens and run it again.",
            required_mt=required_mt,
            available_mt=available_mt,
            missing_mt=missing_mt,
        )
        self.required_mt = required_mt
        self.available_mt = available_mt
        self.missing_mt = missing_mt


class AccountNotActiveError(VisionMeterError):
    """The account does not exist or is frozen; nothing moved."""

    code = "account_not_active"


class AccountBusyError(VisionMeterError):
    """Work of the account is going on, and some of its balance is held; nothing was changed."""

    code = "account_busy"


class PaymentsOpenError(VisionMeterError):
    """Money may still come for the account; nothing was changed."""

    code = "payments_open"


class BalanceChangedError(VisionMeterError):
    """Another amount is left than was agreed to; nothing was changed. `available_mt` is what there is now."""

    code = "balance_changed"


class SpendingCapError(VisionMeterError):
    """The spending cap of a day or a month leaves too little; nothing was held.

    `period` is `day` or `month`, `scope` is `account` or `key`; amounts in milli-tokens.
    """

    code = "spending_cap"

    def __init__(self, *, period: str, scope: str, cap_mt: int, spent_mt: int, required_mt: int) -> None:
        left_mt = max(0, cap_mt - spent_mt)
        super().__init__(
            f"This needs {format_tokens(required_mt)} tokens, and the cap of {format_tokens(cap_mt)} a {period} leaves "
            f"{format_tokens(left_mt)}: run fewer images, wait for the next {period}, or let the owner raise the cap.",
            period=period,
            scope=scope,
            cap_mt=cap_mt,
            spent_mt=spent_mt,
            left_mt=left_mt,
            required_mt=required_mt,
        )


class RefundTooLargeError(VisionMeterError):
    """More was to be refunded than is left of a charge; nothing moved."""

    code = "refund_too_large"

    def __init__(self, *, amount_mt: int, refundable_mt: int) -> None:
        super().__init__(
            f"{format_tokens(amount_mt)} tokens are more than the {format_tokens(refundable_mt)} that are left of this "
            "charge: refund at most that.",
            amount_mt=amount_mt,
            refundable_mt=refundable_mt,
        )


class ReasonMissingError(VisionMeterError):
    """A correction without a reason; nothing moved."""

    code = "reason_missing"


class InvalidHeadError(VisionMeterError):
    """A file that is no exported head of the ledger."""

    code = "invalid_head"


class QuoteGrewError(VisionMeterError):
    """The quote expired and the same work costs more now; nothing was held. `quote_id` names the new quote."""

    code = "quote_grew"

    def __init__(self, *, quote_id: str, total_mt: int, previous_mt: int) -> None:
        super().__init__(
            f"The price went from {format_tokens(previous_mt)} to {format_tokens(total_mt)} tokens since the preview: "
            "look at it and run the new quote if you agree.",
            quote_id=quote_id,
            total_mt=total_mt,
            previous_mt=previous_mt,
        )


class ChargeKeyTakenError(VisionMeterError):
    """The same work is already held or captured for this account; `status` says which."""

    code = "charge_key_taken"


class LedgerInconsistentError(VisionMeterError):
    """An account's entries do not lead to its stored balances; `account_id` names it."""

    code = "ledger_inconsistent"


class HoldEndedError(VisionMeterError):
    """The hold was captured, released or expired before; a hold ends once."""

    code = "hold_ended"


class IdempotencyConflictError(VisionMeterError):
    """The idempotency key was used before for a different request."""

    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            "This idempotency key was used for another request: send a new key for a new request.", key=key
        )


class QuoteExpiredError(VisionMeterError):
    """The quote is too old to run; nothing was held."""

    code = "quote_expired"


class QuoteNotFoundError(VisionMeterError):
    """There is no such quote for this account."""

    code = "quote_not_found"


class ReceiptNotFoundError(VisionMeterError):
    """There is no such receipt for this account."""

    code = "receipt_not_found"


class QuoteMismatchError(VisionMeterError):
    """The images sent are not the images that were quoted."""

    code = "quote_mismatch"


class NoRateError(VisionMeterError):
    """The price book has no rate for this model."""

    code = "no_rate"


class CalibrationRefusedError(VisionMeterError):
    """A calibrated price list that is not put in force; nothing was changed."""

    code = "calibration_refused"


class VoucherNotFoundError(VisionMeterError):
    """No voucher has this code."""

    code = "voucher_not_found"


class VoucherUsedError(VisionMeterError):
    """The voucher was redeemed before."""

    code = "voucher_used"


class VoucherExpiredError(VisionMeterError):
    """The voucher is past its date or was withdrawn."""

    code = "voucher_expired"


class PaymentNotOfferedError(VisionMeterError):
    """This way to pay is not set up here; nothing was opened."""

    code = "payment_not_offered"


class PaymentNotFoundError(VisionMeterError):
    """There is no such payment, or it is another account's."""

    code = "payment_not_found"


class PaymentEndedError(VisionMeterError):
    """The payment was paid, cancelled or given up before; `state` says which. Nothing was changed."""

    code = "payment_ended"


class NoSavedCardError(VisionMeterError):
    """Automatic top-ups without a card that is kept."""

    code = "no_saved_card"


class PaymentUnderWayError(VisionMeterError):
    """The customer's bank is at work on the payment: it can be neither cancelled nor credited yet."""

    code = "payment_under_way"


class CardPaymentsDownError(VisionMeterError):
    """Stripe does not answer, or refuses what it was asked; nothing was charged."""

    code = "card_payments_down"


class StripeRefusedError(CardPaymentsDownError):
    """Stripe refuses this one request, and would refuse it again; others may be answered."""

    code = "card_payments_refused"


class BadSignatureError(VisionMeterError):
    """A message is not signed by whom it claims to be from, is too old, or cannot be read."""

    code = "bad_signature"


class TooManyPaymentsError(VisionMeterError):
    """The account has as many open payments as it may; `payments_max` says how many."""

    code = "too_many_payments"


class InvalidAmountError(VisionMeterError):
    """An amount outside the allowed range."""

    code = "invalid_amount"
