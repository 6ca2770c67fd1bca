"""Error codes in words: the one table of the portal, in the reader's language, each with the next step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import streamlit as st

from core.config import settings
from core.errors import VisionMeterError
from core.identity.users import PASSWORD_LENGTH_MIN
from core.money import format_tokens
from ui.i18n import _, ngettext

log = logging.getLogger("visionmeter")


def _limit_mb(details: dict[str, Any]) -> str:
    return f"{details.get('bytes_max', 0) / 1e6:.0f}"


def _limit_mp(details: dict[str, Any]) -> str:
    return f"{details.get('pixels_max', 0) / 1e6:.0f}"


def _cap_words(details: dict[str, Any]) -> str:
    """The next step differs with the period, and with whose cap it is."""
    if details["scope"] == "key":
        return (
            _("This needs {required} tokens, and the {cap} a day of this key leave {left}: run fewer pictures.")
            if details["period"] == "day"
            else _("This needs {required} tokens, and the {cap} a month of this key leave {left}: run fewer pictures.")
        )
    return (
        _(
            "This needs {required} tokens, and the account's cap of {cap} a day leaves {left} for today: run fewer "
            "pictures, wait until tomorrow, or let an owner raise the cap. Nothing was taken."
        )
        if details["period"] == "day"
        else _(
            "This needs {required} tokens, and the account's cap of {cap} a month leaves {left} for this month: run "
            "fewer pictures, wait for the next month, or let an owner raise the cap. Nothing was taken."
        )
    )


def _weak_words(why: str) -> str:
    if why == "email":
        return _("Choose a password that does not contain the name in your e-mail address.")
    return _(
        "This password is easy to guess: it is on lists of leaked ones, or made of common words, names, dates or rows "
        "of keys. Choose a longer one, such as four words that have nothing to do with one another."
    )


def role_words(role: str) -> str:
    """A role in an account, in words."""
    words = {"owner": _("owner"), "member": _("member"), "viewer": _("viewer")}
    return words.get(role, role)


_KEY_WORDS: dict[str, Callable[[], str]] = {
    "name": lambda: _("Give the key a name of 1 to 80 characters."),
    "models": lambda: _("Choose models from the list, or none for all of them."),
    "networks": lambda: _("Give addresses or networks such as 203.0.113.7 or 203.0.113.0/24, at most 20, one a line."),
    "caps": lambda: _("A cap is zero or more tokens; leave it empty for no cap."),
    "expires_at": lambda: _("Choose a day after today, or no expiry."),
    "grace": lambda: _("Choose one of the grace periods offered."),
    "state": lambda: _("This key has ended or was rotated before: make a new one."),
    "manages_keys": lambda: _("Only an owner, signed in here, makes a key that manages keys."),
}

_MODEL_WORDS: dict[str, Callable[[], str]] = {
    "name": lambda: _("A model's name is lower case letters, digits, “-” and “.”, such as helmets-2."),
    "title": lambda: _("Give the model a title of 1 to 80 characters."),
    "beta": lambda: _("β is a number above 0 and at most 1000, with at most four decimals, such as 1.5."),
    "percent": lambda: _("A share is a whole number of percent from 1 to 100."),
    "weights": lambda: _("These are the weights that the model has already: choose another file."),
}

_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "bad_code": lambda _d: _("This code is wrong or was used before: enter the one that the app shows next."),
    "sign_in_step_ended": lambda _d: _(
        "This sign-in took too long, or had too many wrong codes: sign in with your password again."
    ),
    "second_factor_locked": lambda _d: _(
        "Too many wrong codes came in a row. Enter a recovery code, or ask the operator of this service."
    ),
    "second_factor_state": lambda _d: _(
        "The second factor was turned on or off meanwhile, or this took too long: load the page again."
    ),
    "second_factor_key": lambda _d: _(
        "Codes of apps cannot be checked here at present. Enter a recovery code, or tell the operator of this service."
    ),
    "insufficient_tokens": lambda d: _(
        "This needs {required} tokens and {available} are available: top up {missing} tokens and run it again. "
        "Nothing was taken."
    ).format(
        required=format_tokens(d["required_mt"]),
        available=format_tokens(d["available_mt"]),
        missing=format_tokens(d["missing_mt"]),
    ),
    "account_not_active": lambda _d: _("This account cannot spend at present: ask the operator why."),
    "account_busy": lambda _d: _(
        "A run is going on: wait for its end, or stop it on Detect, and then delete the account."
    ),
    "balance_changed": lambda d: _(
        "The balance changed meanwhile: {amount} tokens would be lost now. Open this dialog again."
    ).format(amount=format_tokens(d["available_mt"])),
    "spending_cap": lambda d: _cap_words(d).format(
        required=format_tokens(d["required_mt"]), cap=format_tokens(d["cap_mt"]), left=format_tokens(d["left_mt"])
    ),
    "refund_too_large": lambda d: _(
        "{amount} tokens are more than the {left} that are left of this charge: refund at most that."
    ).format(amount=format_tokens(d["amount_mt"]), left=format_tokens(d["refundable_mt"])),
    "reason_missing": lambda _d: _("Say why: the reason is kept with what you do."),
    "hold_ended": lambda _d: _("Nothing was charged here, so there is nothing to refund."),
    "idempotency_conflict": lambda _d: _(
        "This form was sent already with other values. Nothing more was done: look at what stands there now."
    ),
    "invalid_head": lambda _d: _("This is no exported head of the ledger: choose the file as it was downloaded."),
    "quote_grew": lambda d: _(
        "The price went from {before} to {now} tokens since the preview. Nothing was taken: look at it and decide."
    ).format(before=format_tokens(d["previous_mt"]), now=format_tokens(d["total_mt"])),
    "ledger_inconsistent": lambda _d: _(
        "The entries of this account do not add up to its balance, so nothing is shown: tell the operator."
    ),
    "quote_expired": lambda _d: _("The price was too old and has been refreshed: check it and press Run again."),
    "quote_not_found": lambda _d: _("This price is not known any more and has been refreshed: press Run again."),
    "quote_mismatch": lambda _d: _("The pictures changed since the price was shown: check it and press Run again."),
    "too_many_images": lambda d: _("At most {images_max} pictures run in one batch: remove some.").format(**d),
    "invalid_img_size": lambda _d: _("Choose one of the sizes offered."),
    "no_rate": lambda _d: _("This model has no price yet: choose another model."),
    "image_empty": lambda _d: _("The file is empty: choose it again, or export it anew."),
    "image_too_many_bytes": lambda d: _(
        "The file is larger than {limit} MB: save it smaller or with a stronger compression."
    ).format(limit=_limit_mb(d)),
    "image_too_many_pixels": lambda d: _(
        "The picture has more than {limit} megapixels: scale it down and upload it again."
    ).format(limit=_limit_mp(d)),
    "image_unsupported": lambda _d: _(
        "This is no JPEG, PNG, WebP, BMP or TIFF picture, whatever its name says: export it as one of these."
    ),
    "image_broken": lambda _d: _("The picture is damaged and cannot be read to its end: export or copy it again."),
    "image_animated": lambda _d: _("The file holds several frames: export one frame as a picture."),
    "model_not_found": lambda _d: _("This model is not known here: choose another."),
    "model_retired": lambda _d: _("This model is no longer offered: choose another. Results and receipts stay."),
    "model_name_taken": lambda _d: _(
        "There is a model or a file of weights of this name already: choose another name."
    ),
    "invalid_model": lambda d: _MODEL_WORDS.get(d.get("field", ""), _MODEL_WORDS["name"])(),
    "canary_not_found": lambda _d: _("No version of this model is being tried on a share: load the page again."),
    "weights_folder": lambda _d: _(
        "The weights folder cannot be written, or its catalogue cannot be read; nothing was changed. The log of the "
        "service says why."
    ),
    "model_not_ready": lambda _d: _("The weights of this model are not on this machine: choose another model."),
    "weights_refused": lambda _d: _(
        "The weights of this model are not the registered ones, so it was not run: choose another model."
    ),
    "inference_failed": lambda _d: _("The model failed on this picture. Nothing was taken: try again."),
    "first_attempt_failed": lambda _d: _(
        "The run that was to pay for the same picture failed. Nothing was taken: try again."
    ),
    "internal": lambda _d: _("Something went wrong on our side. Nothing was taken: try again."),
    "restart": lambda _d: _("The service was restarted before this picture ran. Nothing was taken."),
    "engine_busy": lambda _d: _("The service is busy. Nothing was taken: try again in a few seconds."),
    "engine_stopped": lambda _d: _("The service is restarting. Nothing was taken: try again in a minute."),
    "disk_full": lambda _d: _(
        "The disk of this service is full, so it takes no pictures. Nothing was taken: tell the operator, and try "
        "again later."
    ),
    "archive_refused": lambda _d: _(
        "This ZIP, or a file in it, cannot be read: pack it anew without a password, or choose the pictures themselves."
    ),
    "format_not_applicable": lambda d: _(
        "This model tells classes of whole pictures, which have no boxes: take JSON or CSV."
    ),
    "invalid_tile_px": lambda d: (
        _("A picture has {tiles} tiles of this size, and {tiles_max} are the most: choose larger tiles.").format(**d)
        if "tiles" in d
        else _("Tiles are for models that find boxes: choose such a model, or no tiles.")
        if "task" in d
        else _("Choose one of the tile sizes offered.")
    ),
    "voucher_not_found": lambda _d: _("No voucher has this code: check it for a typing mistake."),
    "voucher_used": lambda d: (
        _("You have redeemed this voucher already: it stands in your transactions below.")
        if d.get("by_this_account")
        else _("This voucher was redeemed before: ask whoever gave it to you for another.")
    ),
    "voucher_expired": lambda _d: _("This voucher is no longer valid: ask whoever gave it to you for another."),
    "payment_not_offered": lambda _d: _("This way to pay is not offered any more: load the page again."),
    "payment_not_found": lambda _d: _("There is no such payment in your account: load the page again."),
    "payment_ended": lambda _d: _("This payment has ended already: load the page again to see how."),
    "no_saved_card": lambda _d: _("Save a card first: pay once by card, and tick the box to keep it."),
    "payment_under_way": lambda _d: _("The bank is still at work on this payment: wait for its answer."),
    "card_payments_down": lambda _d: _(
        "Payments by card cannot be reached at the moment, and nothing was charged: try again in a minute."
    ),
    "card_payments_refused": lambda _d: _(
        "Payments by card cannot be reached at the moment, and nothing was charged: try again in a minute."
    ),
    "too_many_payments": lambda d: _("At most {payments_max} payments may be open: pay or cancel one first.").format(
        **d
    ),
    "invalid_amount": lambda _d: _("This amount is outside what is allowed: choose another."),
    "invalid_email": lambda _d: _("Enter an e-mail address such as name@example.com."),
    "email_taken": lambda _d: _("There is an account with this address: sign in instead."),
    "weak_password": lambda d: (
        _weak_words(d["why"])
        if "why" in d
        else (
            _("Choose a password of at most {length_max} characters.").format(**d)
            if "length_max" in d
            else _("Choose a password of at least {length_min} characters that are not all alike.").format(
                length_min=d.get("length_min", PASSWORD_LENGTH_MIN)
            )
        )
    ),
    "bad_credentials": lambda _d: _("The address or the password is wrong."),
    "too_many_attempts": lambda _d: _("Too many failed sign-ins for this address: wait 15 minutes."),
    "too_many_from_here": lambda d: _(
        "Too many attempts from your network: wait {minutes} and try again. Other networks can go on."
    ).format(minutes=ngettext("{n} minute", "{n} minutes", -(-d["retry_after_s"] // 60))),
    "bad_email_link": lambda d: (
        _("This link was used already. If you need another, ask for it on the page where you asked for this one.")
        if d["was_used"]
        else _(
            "This link does not work: it is too old, or a newer mail took its place. Open the newest mail, or ask for "
            "another."
        )
    ),
    "mail_first": lambda _d: _("An account begins with a mail here: load the page again, and enter the address alone."),
    "too_many_invitations": lambda d: _(
        "An account invites at most {invitations_max} addresses an hour: wait {minutes} and try again."
    ).format(
        invitations_max=d["invitations_max"],
        minutes=ngettext("{n} minute", "{n} minutes", -(-d["retry_after_s"] // 60)),
    ),
    "too_many_mails": lambda _d: _(
        "Enough mails are on their way to this address: look where it keeps unwanted mail, or ask again in an hour."
    ),
    "sign_up_closed": lambda d: (
        _("New accounts are by invitation here: ask the operator of this service for one.")
        if d["policy"] == "invitation"
        else _("No new accounts are opened here.")
    ),
    "bad_ticket": lambda _d: _("This sign-in took too long: sign in again."),
    "not_allowed": lambda _d: _("Only the operator of this installation may do this."),
    "role_needed": lambda d: _("This needs the role “{needed}” in your account: ask an owner for it.").format(
        needed=role_words(d["needed"])
    ),
    "bad_invitation": lambda _d: _(
        "This invitation cannot be used: enter the address that was invited, or ask for another invitation."
    ),
    "invitation_not_found": lambda _d: _("There is no such open invitation: load the page again."),
    "has_account": lambda _d: _(
        "This address signs in to an account already, and a person belongs to one account: invite another address."
    ),
    "member_not_found": lambda _d: _("This person does not belong to your account any more: load the page again."),
    "invalid_role": lambda _d: _("Choose one of the roles offered."),
    "payments_open": lambda _d: _(
        "A payment is open, whose money would come to nobody: pay or cancel it under Top up first."
    ),
    "team_not_empty": lambda _d: _(
        "Others belong to this account: remove them under Team first, or make one of them an owner and leave."
    ),
    "last_owner": lambda _d: _("This is the only owner of the account: make somebody else an owner first."),
    "last_operator": lambda _d: _("This is the only operator of the installation, who cannot be removed."),
    "session_not_found": lambda _d: _("This sign-in has ended already: load the page again."),
    "invalid_billing": lambda _d: _("Shorten it: an invoice has room for a name, an address and a tax number."),
    "invalid_time_zone": lambda _d: _("There is no time zone of this name: choose one from the list."),
    "receipt_not_found": lambda _d: _(
        "There is no such receipt in your account: check its number, or look for it among all receipts."
    ),
    "key_not_found": lambda _d: _("There is no such API key in your account: load the page again."),
    "too_many_keys": lambda d: _("An account has at most {keys_max} usable API keys: revoke one first.").format(**d),
    "invalid_key_setting": lambda d: _KEY_WORDS.get(d.get("field", ""), _KEY_WORDS["name"])(),
    "image_url_refused": lambda _d: _(
        "Pictures are fetched from public https and http addresses only: give such an address, or upload the file."
    ),
    "webhook_url_refused": lambda _d: _(
        "Messages are sent to public https and http addresses only: give such an address, or ask the operator to allow "
        "this one."
    ),
    "image_url_failed": lambda _d: _(
        "The picture could not be fetched from its address: open the address yourself, or upload the file."
    ),
    "job_not_found": lambda _d: _("There is no such run in your account."),
}


def explain(error: VisionMeterError) -> str:
    """An expected failure in words."""
    words = _WORDS.get(error.code)
    return words(error.details) if words else _("Something went wrong on our side. Nothing was taken: try again.")


def explain_code(code: str | None) -> str:
    """The words of a stored error code."""
    words = _WORDS.get(code or "internal", _WORDS["internal"])
    limits = settings()
    return words({"bytes_max": limits.image_bytes_max, "pixels_max": limits.image_pixels_max})


def known_codes() -> frozenset[str]:
    """The codes that have words."""
    return frozenset(_WORDS)


def show_script_error(error: Exception) -> bool:
    """What a person sees when a page fails unexpectedly: words, never a stack trace (that goes to the log)."""
    log.error("a page failed", exc_info=error)
    st.error(
        _("Something went wrong on our side. Nothing was taken: try again, or reload the page."),
        icon=":material/error:",
    )
    return True
