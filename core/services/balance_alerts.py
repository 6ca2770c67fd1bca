"""Telling of a balance that fell below its threshold: once for each crossing, whoever looks first.

The crossing itself is a row that was written with the entry that crossed (core.ledger.posting).
"""

from __future__ import annotations

from core.identity import users
from core.jobs import deliveries
from core.ledger import spending
from core.ledger.tables import Account
from core.mail import outbox
from core.services.application import Application


def announce_alerts(app: Application) -> int:
    """Put mails and webhooks about crossings that nobody was told of on their way; gives how many these were.

    Any number of processes may do this at once.
    """
    with app.db.read() as session:
        untold = spending.untold_alerts(session)
    told = 0
    for alert in untold:
        with app.db.write() as session:
            if not spending.mark_told(session, alert.account_id, alert.seq):
                continue  # another process was here
            told += 1
            url = session.get_one(Account, alert.account_id).alert_url
            if url is not None:
                deliveries.add_delivery(session, alert.account_id, url, alert_seq=alert.seq)
            if app.smtp is None:
                continue
            facts = {"threshold_mt": alert.threshold_mt, "posted_mt": alert.posted_after_mt}
            for owner in users.list_owners(session, alert.account_id):
                if owner.email_verified_at is not None:
                    outbox.put_mail(session, "low_balance", owner.email, user_id=owner.id, facts=facts)
    return told
