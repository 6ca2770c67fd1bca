"""A stand-in for Stripe on loopback: Checkout, a page to pay on, kept cards, refunds, disputes, and signed events.

It keeps books of its own, with which the ledger is compared. Bodies are as docs.stripe.com/api shows them, as far as
the SDK or VisionMeter reads them.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.listening import listening

API_KEY = "sk_test_stand_in"
WEBHOOK_SECRET = "whsec_stand_in"


def sign(body: bytes, *, secret: str = WEBHOOK_SECRET, at: float | None = None) -> str:
    """The header `Stripe-Signature`, as docs.stripe.com/webhooks#verify-manually says."""
    seconds = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


@dataclass
class Stripe:
    """The books: sessions by id, and what each idempotency key was answered. `lose_answers` breaks connections."""

    url: str = ""
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunded: dict[str, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    # Payment intents by id, and what becomes of a charge of a kept card: `ok`, a refusal's code, or `processing`.
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    cards: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    # What some paths are answered instead, as a status.
    broken: dict[str, int] = field(default_factory=dict)
    is_down: bool = False
    lose_answers: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    # What happens at Stripe ------------------------------------------------------------------------

    def session_of(self, payment_id: str) -> dict[str, Any]:
        """The one session of a payment; two would be a mistake."""
        with self.lock:
            found = [one for one in self.sessions.values() if one["client_reference_id"] == payment_id]
        assert len(found) == 1, f"{len(found)} sessions of {payment_id}"
        return found[0]

    def pay(self, session_id: str) -> dict[str, Any]:
        """The customer pays; gives the event."""
        with self.lock:
            session = self.sessions[session_id]
            assert session["status"] == "open", session["status"]
            session |= {"status": "complete", "payment_status": "paid", "payment_intent": f"pi_{session_id}"}
            intent = {"id": f"pi_{session_id}", "object": "payment_intent", "metadata": session["metadata"]}
            if session["saves_card"]:
                intent |= {"customer": f"cus_{session_id}", "payment_method": f"pm_{session_id}"}
                self.cards[f"pm_{session_id}"] = "ok"
            self.intents[intent["id"]] = intent
            return self.event("checkout.session.completed", session)

    def pay_later(self, session_id: str) -> dict[str, Any]:
        """The customer's bank takes its time."""
        with self.lock:
            session = self.sessions[session_id]
            session |= {"status": "complete", "payment_intent": f"pi_{session_id}"}
            return self.event("checkout.session.completed", session)

    def bank_says(self, session_id: str, *, paid: bool) -> dict[str, Any]:
        """The bank's late answer."""
        with self.lock:
            session = self.sessions[session_id]
            if paid:
                session["payment_status"] = "paid"
            word = "succeeded" if paid else "failed"
            return self.event(f"checkout.session.async_payment_{word}", session)

    def expire(self, session_id: str) -> dict[str, Any]:
        """A session's time is over."""
        with self.lock:
            session = self.sessions[session_id]
            assert session["status"] == "open"
            session["status"] = "expired"
            return self.event("checkout.session.expired", session)

    def refund(self, session_id: str, amount: int) -> dict[str, Any]:
        """The operator refunds some of it in the dashboard."""
        with self.lock:
            session = self.sessions[session_id]
            total = self.refunded.get(session_id, 0) + amount
            assert total <= session["amount_total"]
            self.refunded[session_id] = total
            charge = {"object": "charge", "id": f"ch_{session_id}", "amount": session["amount_total"]}
            charge |= {"amount_refunded": total, "currency": session["currency"], "metadata": session["metadata"]}
            return self.event("charge.refunded", charge | {"payment_intent": session["payment_intent"]})

    def dispute(
        self, session_id: str, status: str, *, amount: int | None = None, kind: str | None = None
    ) -> dict[str, Any]:
        """The cardholder's bank takes the money (`needs_response`), or decides (`won`, `lost`), or asks first."""
        with self.lock:
            session = self.sessions[session_id]
            dispute = {"object": "dispute", "id": f"dp_{session_id}", "status": status, "currency": session["currency"]}
            dispute |= {"amount": session["amount_total"] if amount is None else amount, "metadata": {}}
            kind = kind or ("created" if status == "needs_response" else "closed")
            return self.event(f"charge.dispute.{kind}", dispute | {"payment_intent": session["payment_intent"]})

    def event(self, kind: str, about: dict[str, Any]) -> dict[str, Any]:
        """An event with a fresh id, about the object as it is now."""
        about = json.loads(json.dumps(about))
        event = {"id": f"evt_{secrets.token_hex(12)}", "object": "event", "type": kind, "data": {"object": about}}
        event["created"] = int(time.time())
        with self.lock:
            self.events.append(event)
        return json.loads(json.dumps(event))

    # The API ---------------------------------------------------------------------------------------

    def create(self, form: dict[str, str], key: str) -> tuple[int, dict[str, Any]]:
        """POST /v1/checkout/sessions."""
        with self.lock:
            asked = json.dumps(form, sort_keys=True)
            if key in self.answers:
                before, answer = self.answers[key]
                if before != asked:
                    return 400, _error("idempotency_error", "Keys for idempotent requests need the same parameters.")
                # As Stripe does: the first answer, not what became of it.
                return 200, answer
            amount = int(form["line_items[0][price_data][unit_amount]"]) * int(form["line_items[0][quantity]"])
            if not 1800 < int(form["expires_at"]) - time.time() <= 86_400:
                return 400, _error("invalid_request_error", "expires_at is between 30 minutes and 24 hours away.")
            session_id = f"cs_test_{secrets.token_hex(12)}"
            session = {
                "id": session_id,
                "object": "checkout.session",
                "status": "open",
                "payment_status": "unpaid",
                "amount_total": amount,
                "currency": form["line_items[0][price_data][currency]"],
                "client_reference_id": form["client_reference_id"],
                "metadata": {"payment_id": form["metadata[payment_id]"]},
                "payment_intent": None,
                "saves_card": form.get("payment_intent_data[setup_future_usage]") == "off_session",
                "success_url": form["success_url"],
                "cancel_url": form["cancel_url"],
                "url": f"{self.url}/pay/{session_id}",
            }
            self.sessions[session_id] = session
            self.answers[key] = (asked, dict(session))
            return 200, dict(session)

    def charge(self, form: dict[str, str], key: str) -> tuple[int, dict[str, Any]]:
        """POST /v1/payment_intents, confirmed without the customer: paid, refused with 402, or still under way."""
        asked = json.dumps(form, sort_keys=True)
        if key in self.answers:
            before, answer = self.answers[key]
            if before != asked:
                return 400, _error("idempotency_error", "Keys for idempotent requests need the same parameters.")
            return (402 if "error" in answer else 200), answer
        assert (form["off_session"], form["confirm"]) == ("true", "true")
        outcome = self.cards.get(form["payment_method"])
        if outcome is None:
            return 400, _error("invalid_request_error", "No such payment method.", param="payment_method")
        intent = {"id": f"pi_{secrets.token_hex(12)}", "object": "payment_intent", "currency": form["currency"]}
        intent |= {"amount": int(form["amount"]), "customer": form["customer"], "status": "succeeded"}
        intent |= {"metadata": {"payment_id": form["metadata[payment_id]"]}, "last_payment_error": None}
        self.intents[intent["id"]] = intent
        answer = intent
        if outcome == "processing":
            intent["status"] = "processing"
        elif outcome != "ok":
            intent |= {"status": "requires_payment_method", "last_payment_error": {"code": outcome}}
            answer = {
                "error": {"type": "card_error", "code": outcome, "message": "No.", "payment_intent": dict(intent)}
            }
        self.answers[key] = (asked, dict(answer))
        return (402 if "error" in answer else 200), dict(answer)

    def charges_of(self, payment_id: str) -> list[dict[str, Any]]:
        """The intents of a payment; two that are paid would be a mistake."""
        return [one for one in self.intents.values() if one["metadata"].get("payment_id") == payment_id]

    def list_events(self, form: dict[str, str]) -> dict[str, Any]:
        """GET /v1/events: the newest first, a page at a time."""
        kinds = {value for name, value in form.items() if name.startswith("types[")}
        since, limit = int(form.get("created[gte]", "0")), int(form.get("limit", "10"))
        found = [
            event
            for event in reversed(self.events)
            if event["created"] >= since and event["type"] in (kinds or event["type"])
        ]
        if after := form.get("starting_after"):
            found = found[[event["id"] for event in found].index(after) + 1 :]
        return {"object": "list", "url": "/v1/events", "has_more": len(found) > limit, "data": found[:limit]}

    def answer(self, method: str, path: str, form: dict[str, str], key: str) -> tuple[int, dict[str, Any]]:
        """Any request of the SDK's."""
        with self.lock:
            self.calls.append(f"{method} {path}")
            if path in self.broken:
                kind = {402: "card_error", 500: "api_error"}.get(self.broken[path], "invalid_request_error")
                return self.broken[path], _error(kind, "No.")
            if path == "/v1/checkout/sessions":
                if method == "POST":
                    return self.create(form, key)
                return 200, {"object": "list", "url": path, "has_more": False, "data": []}
            if path == "/v1/events":
                return 200, self.list_events(form)
            if path == "/v1/payment_intents":
                if method == "POST":
                    return self.charge(form, key)
                mine = [one for one in self.intents.values() if one.get("customer") == form["customer"]]
                return 200, {"object": "list", "url": path, "has_more": False, "data": mine}
            if intent := re.fullmatch("/v1/payment_intents/pi_(.+)", path):
                found = self.intents.get(f"pi_{intent[1]}")
                if found is None:
                    session = self.sessions[intent[1]]
                    found = {"id": f"pi_{intent[1]}", "object": "payment_intent", "metadata": session["metadata"]}
                if "expand[0]" in form and found.get("payment_method"):
                    card = {"brand": "visa", "last4": "4242"}
                    found = found | {"payment_method": {"id": found["payment_method"], "card": card}}
                return 200, dict(found)
            if method_id := re.fullmatch("/v1/payment_methods/(.+)/detach", path):
                if self.cards.pop(method_id[1], None) is None:
                    return 400, _error("invalid_request_error", "The payment method is not attached to a customer.")
                return 200, {"id": method_id[1], "object": "payment_method"}
            named = re.fullmatch("/v1/checkout/sessions/([^/]+)(/expire)?", path)
            if named is None or named[1] not in self.sessions:
                return 404, _error("invalid_request_error", f"No such object: {path}")
            session = self.sessions[named[1]]
            if named[2]:
                if session["status"] != "open":
                    return 400, _error("invalid_request_error", "Only Checkout Sessions with a status of open.")
                session["status"] = "expired"
            return 200, dict(session)


def _error(kind: str, message: str, **more: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, **more}}


class _Handler(BaseHTTPRequestHandler):
    stripe: Stripe
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, stripe = urlsplit(self.path).path, self.stripe
        if path.startswith("/pay/"):
            self._page(method, path.removeprefix("/pay/"))
            return
        if stripe.is_down:
            self._send(503, "application/json", json.dumps(_error("api_error", "down")).encode())
            return
        if self.headers.get("Authorization") != f"Bearer {API_KEY}":
            self._send(401, "application/json", json.dumps(_error("invalid_request_error", "Invalid API Key")).encode())
            return
        form = dict(parse_qsl(body.decode() or urlsplit(self.path).query))
        status, answer = stripe.answer(method, path, form, self.headers.get("Idempotency-Key", ""))
        if method == "POST" and stripe.lose_answers > 0:
            stripe.lose_answers -= 1
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, "application/json", json.dumps(answer).encode())

    def _page(self, method: str, session_id: str) -> None:
        session = self.stripe.sessions[session_id]
        if method == "POST":
            self.stripe.pay(session_id)
            self.send_response(303)
            self.send_header("Location", session["success_url"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        back = html.escape(session["cancel_url"])
        words = (
            f"<h1>Pay {session['amount_total']} {session['currency']}</h1><form method=post><button>Pay</button></form>"
        )
        self._send(200, "text/html", f"<!doctype html><title>Pay</title>{words}<a href='{back}'>Back</a>".encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args: Any) -> None:
        """Whoever asks may be killed."""


@contextmanager
def stand_in() -> Iterator[Stripe]:
    """A stand-in that listens while it is used."""
    stripe = Stripe()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"stripe": stripe}))
    stripe.url = f"http://127.0.0.1:{server.server_port}"
    with listening(server):
        yield stripe


def settings_for(stripe: Stripe, **more: Any) -> dict[str, Any]:
    """What an operator sets, and where the stand-in is."""
    return {
        "stripe_secret_key": API_KEY,
        "stripe_webhook_secret": WEBHOOK_SECRET,
        "public_url": "http://portal.example",
        "stripe_api_base": stripe.url,
        **more,
    }
