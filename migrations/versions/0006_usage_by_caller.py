"""Usage by API key or person, and whose turn it is among the webhooks."""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None

OUTCOMES = ('charged', 'free', 'failed', 'cancelled', 'interrupted')
UNDELIVERED = 'delivered_at IS NULL AND given_up_at IS NULL'
GIVEN_UP = 'given_up_at IS NOT NULL'


def upgrade() -> None:
    op.create_table(
        'usage_caller_slot',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('actor', sa.String(), nullable=False),
        sa.Column('model', sa.String(), nullable=False),
        sa.Column('slot', sa.BigInteger(), nullable=False),
        *(sa.Column(outcome, sa.BigInteger(), nullable=False) for outcome in OUTCOMES),
        sa.Column('amount_mt', sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            'charged >= 0 AND free >= 0 AND failed >= 0 AND cancelled >= 0 AND interrupted >= 0 AND amount_mt >= 0',
            name='usage_caller_slot_not_negative',
        ),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id', 'actor', 'model', 'slot'),
        sqlite_with_rowid=False,
    )
    # SQLite rounds to milliseconds, which would carry the last half of one over into the next slot.
    seconds = (
        "CAST(strftime('%s', substr(created_at, 1, 19)) AS INTEGER)"
        if op.get_bind().dialect.name == "sqlite"
        else "floor(extract(epoch FROM created_at))::bigint"
    )
    counts = ", ".join(f"count(*) FILTER (WHERE outcome = '{outcome}')" for outcome in OUTCOMES)
    op.execute(
        f"INSERT INTO usage_caller_slot (account_id, actor, model, slot, {', '.join(OUTCOMES)}, amount_mt) "
        f"SELECT account_id, actor, model, {seconds} / 900, {counts}, sum(amount_mt) FROM usage_record "
        f"GROUP BY account_id, actor, model, {seconds} / 900"
    )
    # The roll-up answers what this index was for.
    op.drop_index('ix_usage_account_actor', table_name='usage_record')

    op.create_table(
        'webhook_turn',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('in_hand_until', sa.DateTime(timezone=True), nullable=True),
        sa.Column('failures', sa.Integer(), nullable=False),
        sa.CheckConstraint('failures >= 0', name='webhook_failures_not_negative'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id'),
    )
    op.execute('INSERT INTO webhook_turn (account_id, failures) SELECT DISTINCT account_id, 0 FROM webhook_delivery')
    op.create_index('ix_webhook_account', 'webhook_delivery', ['account_id', 'created_at', 'id'])
    for name, columns, where in (
        ('ix_webhook_turn', ['account_id', 'next_attempt_at'], UNDELIVERED),
        ('ix_webhook_pending', ['account_id', 'created_at', 'id'], UNDELIVERED),
        ('ix_webhook_given_up', ['account_id', 'created_at', 'id'], GIVEN_UP),
    ):
        op.create_index(
            name, 'webhook_delivery', columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )


def downgrade() -> None:
    for name in ('ix_webhook_given_up', 'ix_webhook_pending', 'ix_webhook_turn', 'ix_webhook_account'):
        op.drop_index(name, table_name='webhook_delivery')
    op.drop_table('webhook_turn')
    op.create_index('ix_usage_account_actor', 'usage_record', ['account_id', 'actor', 'created_at'])
    op.drop_table('usage_caller_slot')
