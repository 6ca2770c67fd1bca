"""Payments, from the wish to the credit, whatever the way that the money takes; receipts of all accounts by time."""

import sqlalchemy as sa
from alembic import op

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    op.create_table(
        'payment',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('provider', sa.String(), nullable=False),
        sa.Column('provider_reference', sa.String(), nullable=False),
        sa.Column('amount_minor', sa.BigInteger(), nullable=False),
        sa.Column('currency', sa.String(), nullable=False),
        sa.Column('tokens_mt', sa.BigInteger(), nullable=False),
        sa.Column('bonus_mt', sa.BigInteger(), nullable=False),
        sa.Column('price_per_token', sa.String(40), nullable=False),
        sa.Column('bonus_percent', sa.String(40), nullable=False),
        sa.Column('state', sa.String(), nullable=False),
        sa.Column('opened_by', sa.String(), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('paid_at', sa.DateTime(timezone=True), nullable=True),
        sa.Column('entry_seq', sa.BigInteger(), nullable=True),
        sa.Column('ended_by', sa.String(), nullable=True),
        sa.Column('reason', sa.String(), nullable=False),
        sa.CheckConstraint('amount_minor >= 0', name='payment_amount_not_negative'),
        sa.CheckConstraint('tokens_mt > 0', name='payment_tokens_positive'),
        sa.CheckConstraint('bonus_mt >= 0', name='payment_bonus_not_negative'),
        sa.CheckConstraint("state IN ('pending', 'paid', 'cancelled', 'expired')", name='payment_state'),
        sa.CheckConstraint("(state = 'paid') = (paid_at IS NOT NULL)", name='payment_paid_at'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('provider', 'provider_reference', name='uq_payment_reference'),
    )
    op.create_index('ix_payment_account', 'payment', ['account_id', 'created_at'])
    op.create_index(
        'ix_payment_pending', 'payment', ['expires_at'], sqlite_where=PENDING, postgresql_where=PENDING
    )
    op.create_index('ix_receipt_created', 'receipt', ['created_at'])


def downgrade() -> None:
    op.drop_index('ix_receipt_created', table_name='receipt')
    op.drop_table('payment')
