"""Payments by card: Stripe's side of a payment, disputes, and the events that were heard."""

import sqlalchemy as sa
from alembic import op

revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None

TO_CHECK = sa.text('next_check_at IS NOT NULL')
OWING = sa.text('owed_mt > 0')


def upgrade() -> None:
    op.create_table(
        'card_session',
        sa.Column('payment_id', sa.String(), nullable=False),
        sa.Column('session_id', sa.String(), nullable=True),
        sa.Column('url', sa.String(), nullable=False),
        sa.Column('intent_id', sa.String(), nullable=True),
        sa.Column('problem', sa.String(), nullable=False),
        sa.Column('checks', sa.Integer(), nullable=False),
        sa.Column('next_check_at', sa.DateTime(timezone=True), nullable=True),
        sa.Column('refunded_minor', sa.BigInteger(), nullable=False),
        sa.Column('taken_mt', sa.BigInteger(), nullable=False),
        sa.Column('owed_mt', sa.BigInteger(), nullable=False),
        sa.CheckConstraint('refunded_minor >= 0', name='card_session_refunded_not_negative'),
        sa.CheckConstraint('taken_mt >= 0', name='card_session_taken_not_negative'),
        sa.CheckConstraint('owed_mt >= 0', name='card_session_owed_not_negative'),
        sa.ForeignKeyConstraint(['payment_id'], ['payment.id']),
        sa.PrimaryKeyConstraint('payment_id'),
        sa.UniqueConstraint('session_id'),
    )
    op.create_index('ix_card_session_intent_id', 'card_session', ['intent_id'])
    op.create_index(
        'ix_card_session_check', 'card_session', ['next_check_at'], sqlite_where=TO_CHECK, postgresql_where=TO_CHECK
    )
    op.create_index('ix_card_session_owing', 'card_session', ['payment_id'], sqlite_where=OWING, postgresql_where=OWING)
    op.create_table(
        'card_dispute',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('payment_id', sa.String(), nullable=False),
        sa.Column('amount_minor', sa.BigInteger(), nullable=False),
        sa.Column('state', sa.String(), nullable=False),
        sa.CheckConstraint('amount_minor >= 0', name='card_dispute_amount_not_negative'),
        sa.CheckConstraint("state IN ('open', 'won', 'lost')", name='card_dispute_state'),
        sa.ForeignKeyConstraint(['payment_id'], ['payment.id']),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_card_dispute_payment_id', 'card_dispute', ['payment_id'])
    op.create_table(
        'card_event',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_card_event_received_at', 'card_event', ['received_at'])


def downgrade() -> None:
    op.drop_table('card_event')
    op.drop_table('card_dispute')
    op.drop_table('card_session')
