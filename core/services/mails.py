"""The keeper of the outbox: decides who gets a mail, makes its link, and hands it to the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from core.db import utcnow
from core.identity import email_links, invitations, oidc_rows, sign_up_links, users
from core.identity.tables import User
from core.mail import outbox, words
from core.mail.smtp import Letter, Smtp
from core.mail.tables import Mail
from core.money import format_tokens
from core.services.application import Application
from core.services.balance_alerts import announce_alerts

log = logging.getLogger("visionmeter")

POLL_S = 1.0
# A server that is away is not asked for every mail there is.
PAUSE_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class _Prepared:
    to: str
    words: words.Words


def send_next(app: Application, smtp: Smtp) -> str | None:
    """One attempt at the mail that is due for longest; None when there was none to take.

    Gives `sent`, `dropped`, `given_up`, `retried` (the server put this one off), or `down`: it takes none, or not now.
    """
    now = utcnow()
    with app.db.read() as session:
        mail = outbox.find_due(session, now)
    if mail is None:
        return None
    with app.db.write() as session:
        if not outbox.claim_mail(session, mail, now):
            return None  # another process was faster
    # Apart from the claim: who deletes his account takes his user's row before those of his mails.
    with app.db.write() as session:
        if not outbox.is_open(session, mail.id):
            return "dropped"  # he has done so since the claim
        prepared = _prepare(app, session, mail, smtp.public_url)
        if prepared is None:
            outbox.end_mail(session, mail.id, "dropped")
    if prepared is None:
        log.info("mail %s (%s): dropped", mail.id, mail.kind)
        return "dropped"
    letter = Letter(f"{mail.id}.{mail.attempts + 1}", prepared.to, prepared.words.subject, prepared.words.text)
    attempt = smtp.send(letter)
    with app.db.write() as session:
        if attempt.outcome in ("put off", "failed"):
            is_last = outbox.note_failure(session, mail.id, attempt.why)
            outcome = "given_up" if is_last else "retried" if attempt.outcome == "put off" else "down"
        else:
            outcome = "sent" if attempt.outcome == "sent" else "given_up"
            outbox.end_mail(session, mail.id, outcome, attempt.why)
    # Neither the address nor what the server said of it.
    level = logging.INFO if outcome == "sent" else logging.WARNING
    log.log(level, "mail %s (%s): %s %s", mail.id, mail.kind, outcome, attempt.why)
    return outcome


def _prepare(app: Application, session: Session, mail: Mail, public_url: str) -> _Prepared | None:
    """To whom a mail goes and what it says, with a link made for it now; None where it is not to be sent."""
    if mail.kind == "sign_up":
        return _prepare_sign_up(app, session, mail, public_url)
    user = users.find_user(session, mail.email) if mail.user_id is None else users.find_enabled(session, mail.user_id)
    if user is None:
        return None
    facts = {"email": user.email}
    if mail.kind == "confirm":
        if user.email_verified_at is not None:
            return None
        facts["link"] = f"{public_url}/?confirm={email_links.issue_link(session, user.id, 'confirm')}"
    elif mail.kind == "reset":
        if mail.created_at < utcnow() - email_links.LIVES["reset"] or _is_looked_after(app, session, user):
            return None
        facts["link"] = f"{public_url}/?reset={email_links.issue_link(session, user.id, 'reset')}"
    else:
        facts |= {
            "threshold": format_tokens(mail.facts["threshold_mt"]),
            "balance": format_tokens(mail.facts["posted_mt"]),
            "link": f"{public_url}/top_up",
            "limits_link": f"{public_url}/account?section=limits",
        }
    return _Prepared(user.email, words.write(mail.kind, user.language, facts))


def _prepare_sign_up(app: Application, session: Session, mail: Mail, public_url: str) -> _Prepared | None:
    """Whether there is an account is said to whoever reads the address's mail, and to nobody else."""
    if mail.created_at < utcnow() - outbox.KEPT:
        return None
    user = users.find_user(session, mail.email)
    if user is None:
        link = f"{public_url}/?sign_up={sign_up_links.issue_link(session, mail.email)}"
        return _Prepared(
            mail.email, words.write("sign_up", mail.facts["language"], {"email": mail.email, "link": link})
        )
    if user.created_at > mail.created_at:
        return None  # he has opened it since, by another mail or another way
    facts = {"email": user.email, "link": f"{public_url}/", "forgotten_link": f"{public_url}/?forgotten=1"}
    # Whom the provider lets in gets no mail for a new password.
    kind = "taken_without_password" if _is_looked_after(app, session, user) else "taken"
    return _Prepared(user.email, words.write(kind, user.language, facts))


def _is_looked_after(app: Application, session: Session, user: User) -> bool:
    """Whether the identity provider lets him in, and no password: by a mail he would get one that it knows nothing of,
    and that works on when it lets him in no more."""
    issuers = {one.issuer for one in oidc_rows.list_of(session, user.id)}
    return not user.password_digest and app.settings.oidc_issuer in issuers


def clean_up(app: Application) -> None:
    """Remove mails and links that ended long ago, and the addresses of invitations that nobody accepted in time."""
    with app.db.read() as session:
        has_old = any(of.has_old(session) for of in (outbox, email_links, sign_up_links, invitations))
    if has_old:
        with app.db.write() as session:
            outbox.forget_old(session)
            email_links.forget_old(session)
            sign_up_links.forget_old(session)
            invitations.forget_old(session)


class MailKeeper:
    """The thread that tells of low balances, and sends what is due where a mail server is configured.

    Any number of processes may have one. It is apart from the job runner's keeper, which renews leases: a mail server
    that hangs must not keep it.
    """

    def __init__(self, app: Application, *, told: Callable[[str], None] | None = None) -> None:
        self._app = app
        self._told = told
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="mail-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 12.0) -> None:
        """Let the attempt in hand end; what it could not say is tried again later."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _keep(self) -> None:
        pause_s = POLL_S
        while not self._stopping.wait(pause_s):
            try:
                announce_alerts(self._app)
                pause_s = POLL_S if self._send_due() else min(pause_s * 2, PAUSE_S_MAX)
                clean_up(self._app)
            except Exception:
                # A database that is away for a moment must not end the thread.
                log.exception("the mail keeper goes on after an error")
                pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def _send_due(self) -> bool:
        """Send until nothing is due; False as soon as the server is down."""
        smtp = self._app.smtp
        while smtp is not None and not self._stopping.is_set():
            outcome = send_next(self._app, smtp)
            if outcome is None:
                return True
            if self._told is not None:
                self._told(outcome)
            if outcome == "down":
                return False
            # A long queue must not keep back what a balance has to say.
            announce_alerts(self._app)
        return True
