"""Mails on their way, links in them, confirmed addresses, and alerts that were told, also by webhook."""

import idna
import sqlalchemy as sa
from alembic import op

revision = '0019'
down_revision = "0018"
branch_labels = None
depends_on = None

OPEN = sa.text('ended_at IS NULL')
SUBJECT = '(job_id IS NULL) <> (alert_seq IS NULL)'
UNTOLD = sa.text('told_at IS NULL')
UNDELIVERED = 'delivered_at IS NULL AND given_up_at IS NULL'
DELIVERY_INDEXES = (
    ('ix_webhook_due', ['next_attempt_at'], UNDELIVERED),
    ('ix_webhook_turn', ['account_id', 'next_attempt_at'], UNDELIVERED),
    ('ix_webhook_account', ['account_id', 'created_at', 'id'], None),
    ('ix_webhook_pending', ['account_id', 'created_at', 'id'], UNDELIVERED),
    ('ix_webhook_given_up', ['account_id', 'created_at', 'id'], 'given_up_at IS NOT NULL'),
)
DELIVERY = (
    'id, account_id, job_id, url, attempts, next_attempt_at, last_status, delivered_at, given_up_at, created_at'
)
USER_COLUMNS = ('email_verified_at', 'welcome_due_since')


def moment(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    spell_domains_alike()
    for name in USER_COLUMNS:
        op.add_column('user_', moment(name, nullable=True))
    op.create_table(
        'mail',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('user_id', sa.String(), nullable=True),
        sa.Column('email', sa.String(), nullable=False),
        sa.Column('address_digest', sa.String(), nullable=False),
        sa.Column('facts', sa.JSON(), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        moment('next_attempt_at'),
        sa.Column('outcome', sa.String(), nullable=False),
        sa.Column('last_error', sa.String(), nullable=False),
        moment('created_at'),
        moment('ended_at', nullable=True),
        sa.CheckConstraint("kind IN ('confirm', 'reset', 'low_balance')", name='mail_kind'),
        sa.CheckConstraint("outcome IN ('', 'sent', 'given_up', 'dropped')", name='mail_outcome'),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome = '')", name='mail_ends_with_an_outcome'),
        sa.CheckConstraint('attempts >= 0', name='mail_attempts_not_negative'),
        sa.ForeignKeyConstraint(['user_id'], ['user_.id']),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_mail_due', 'mail', ['next_attempt_at'], sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index('ix_mail_user', 'mail', ['user_id', 'kind', 'created_at'])
    op.create_index('ix_mail_address', 'mail', ['address_digest', 'created_at'])
    op.create_index('ix_mail_created_at', 'mail', ['created_at'])
    op.create_table(
        'email_link',
        sa.Column('digest', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('user_id', sa.String(), nullable=False),
        moment('created_at'),
        moment('expires_at'),
        moment('used_at', nullable=True),
        sa.CheckConstraint("kind IN ('confirm', 'reset', 'printed')", name='email_link_kind'),
        sa.ForeignKeyConstraint(['user_id'], ['user_.id']),
        sa.PrimaryKeyConstraint('digest'),
    )
    op.create_index('ix_email_link_user', 'email_link', ['user_id', 'kind'])
    op.create_index('ix_email_link_expires_at', 'email_link', ['expires_at'])
    op.add_column('low_balance_alert', moment('told_at', nullable=True))
    # Nobody is told of what happened long ago.
    op.execute('UPDATE low_balance_alert SET told_at = created_at')
    op.create_index('ix_alert_untold', 'low_balance_alert', ['created_at'], sqlite_where=UNTOLD, postgresql_where=UNTOLD)


    op.execute('ALTER TABLE account ADD COLUMN alert_url VARCHAR')
    tell_of_alerts(True)


def spell_domains_alike() -> None:
    """Write addresses whose domain is not in ASCII as they are written from now on.

    Of two that have one mailbox the second stays as it is: he still signs in as he spells it.
    """
    for table, is_open, scope in (
        ('user_', 'disabled_at IS NULL', '1'),
        ('invitation', 'accepted_at IS NULL AND revoked_at IS NULL', "coalesce(account_id, '')"),
    ):
        rows = op.get_bind().execute(sa.text(f'SELECT id, email, {scope} FROM {table} WHERE {is_open}')).all()
        taken = {(of, email) for _id, email, of in rows}
        for row_id, email, of in rows:
            local, _at, domain = email.rpartition('@')
            if domain.isascii():
                continue
            try:
                plain = f'{local}@{idna.encode(domain, uts46=True).decode().lower()}'
            except idna.IDNAError:
                continue  # no mail ever reached it
            if (of, plain) not in taken:
                taken.add((of, plain))
                change = sa.text(f'UPDATE {table} SET email = :plain WHERE id = :id')
                op.get_bind().execute(change, {'plain': plain, 'id': row_id})


def tell_of_alerts(told: bool) -> None:
    """Let a message be about an alert in place of a job, or no longer."""
    if op.get_bind().dialect.name != 'sqlite':
        op.alter_column('webhook_delivery', 'job_id', nullable=told)
        if told:
            op.execute('ALTER TABLE webhook_delivery ADD COLUMN alert_seq BIGINT')
            op.create_check_constraint('webhook_subject', 'webhook_delivery', SUBJECT)
            op.create_unique_constraint('uq_webhook_alert', 'webhook_delivery', ['account_id', 'alert_seq'])
        else:
            op.drop_constraint('uq_webhook_alert', 'webhook_delivery')
            op.drop_constraint('webhook_subject', 'webhook_delivery')
            op.execute('ALTER TABLE webhook_delivery DROP COLUMN alert_seq')
        return
    more = (
        sa.Column('alert_seq', sa.BigInteger(), nullable=True),
        sa.CheckConstraint(SUBJECT, name='webhook_subject'),
        sa.UniqueConstraint('account_id', 'alert_seq', name='uq_webhook_alert'),
    )
    op.create_table(
        'webhook_copy',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('job_id', sa.String(), nullable=told),
        sa.Column('url', sa.String(), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        moment('next_attempt_at'),
        sa.Column('last_status', sa.Integer(), nullable=True),
        moment('delivered_at', nullable=True),
        moment('given_up_at', nullable=True),
        moment('created_at'),
        *(more if told else ()),
        sa.CheckConstraint('delivered_at IS NULL OR given_up_at IS NULL', name='webhook_ends_once'),
        sa.CheckConstraint('attempts >= 0', name='webhook_attempts_not_negative'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.ForeignKeyConstraint(['job_id'], ['job.id']),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('job_id'),
    )
    op.execute(f'INSERT INTO webhook_copy ({DELIVERY}) SELECT {DELIVERY} FROM webhook_delivery')
    op.drop_table('webhook_delivery')
    op.rename_table('webhook_copy', 'webhook_delivery')
    for name, columns, where in DELIVERY_INDEXES:
        op.create_index(name, 'webhook_delivery', columns, sqlite_where=sa.text(where) if where else None)


def downgrade() -> None:
    op.execute('DELETE FROM webhook_delivery WHERE job_id IS NULL')
    tell_of_alerts(False)
    op.execute('ALTER TABLE account DROP COLUMN alert_url')
    op.drop_index('ix_alert_untold', 'low_balance_alert')
    op.execute('ALTER TABLE low_balance_alert DROP COLUMN told_at')
    op.drop_table('email_link')
    op.drop_table('mail')
    for name in reversed(USER_COLUMNS):
        op.execute(f'ALTER TABLE user_ DROP COLUMN {name}')
