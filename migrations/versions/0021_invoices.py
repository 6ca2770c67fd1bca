"""Invoices, which never change; cards that are kept, and when they are charged."""

import sqlalchemy as sa
from alembic import op

revision = '0021'
down_revision = "0020"
branch_labels = None
depends_on = None

IS_INVOICE = sa.text("kind = 'invoice'")
IS_ARMED = sa.text("is_on AND stopped = ''")
SAVES_CARD = sa.text('saves_card')
CHARGING = sa.text("provider = 'saved_card' AND state = 'pending'")


def upgrade() -> None:
    op.create_table(
        'billing_details',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('name', sa.String(), nullable=False),
        sa.Column('address', sa.String(), nullable=False),
        sa.Column('tax_id', sa.String(), nullable=False),
        sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id'),
    )
    op.create_table(
        'invoice_series',
        sa.Column('name', sa.String(), nullable=False),
        sa.Column('last_position', sa.BigInteger(), nullable=False),
        sa.CheckConstraint('last_position >= 0', name='invoice_series_not_negative'),
        sa.PrimaryKeyConstraint('name'),
    )
    op.create_table(
        'invoice',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('number', sa.String(), nullable=False),
        sa.Column('series', sa.String(), nullable=False),
        sa.Column('position', sa.BigInteger(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('payment_id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('corrects', sa.String(), nullable=True),
        sa.Column('issued_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('currency', sa.String(), nullable=False),
        sa.Column('gross_minor', sa.BigInteger(), nullable=False),
        sa.Column('vat_minor', sa.BigInteger(), nullable=False),
        sa.Column('vat_percent', sa.String(), nullable=False),
        sa.Column('says', sa.JSON(), nullable=False),
        sa.CheckConstraint("kind IN ('invoice', 'credit_note')", name='invoice_kind'),
        sa.CheckConstraint("(kind = 'invoice') = (corrects IS NULL)", name='invoice_corrects'),
        sa.CheckConstraint('position > 0', name='invoice_position_positive'),
        sa.CheckConstraint('gross_minor > 0', name='invoice_gross_positive'),
        sa.CheckConstraint('vat_minor >= 0 AND vat_minor <= gross_minor', name='invoice_vat_within_gross'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.ForeignKeyConstraint(['payment_id'], ['payment.id']),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('number'),
        sa.UniqueConstraint('series', 'position', name='uq_invoice_position'),
    )
    op.create_index(
        'uq_invoice_of_payment',
        'invoice',
        ['payment_id'],
        unique=True,
        sqlite_where=IS_INVOICE,
        postgresql_where=IS_INVOICE,
    )
    op.create_index('ix_invoice_payment', 'invoice', ['payment_id'])
    op.create_index('ix_invoice_account', 'invoice', ['account_id', 'issued_at'])
    op.create_index('ix_invoice_issued', 'invoice', ['issued_at'])
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER invoice_no_{action.lower()} BEFORE {action} ON invoice "
                "BEGIN SELECT RAISE(ABORT, 'invoices are append-only'); END"
            )
    else:
        # The function is 0004's.
        op.execute(
            "CREATE TRIGGER invoice_append_only BEFORE UPDATE OR DELETE ON invoice "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            "CREATE TRIGGER invoice_no_truncate BEFORE TRUNCATE ON invoice "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.create_table(
        'saved_card',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('customer_id', sa.String(), nullable=False),
        sa.Column('method_id', sa.String(), nullable=False),
        sa.Column('brand', sa.String(), nullable=False),
        sa.Column('last4', sa.String(), nullable=False),
        sa.Column('saved_at', sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id'),
    )
    op.create_table(
        'forgotten_card',
        sa.Column('method_id', sa.String(), nullable=False),
        sa.Column('forgotten_at', sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('method_id'),
    )
    op.create_table(
        'auto_top_up',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('is_on', sa.Boolean(), nullable=False),
        sa.Column('threshold_mt', sa.BigInteger(), nullable=False),
        sa.Column('amount_minor', sa.BigInteger(), nullable=False),
        sa.Column('month_max_minor', sa.BigInteger(), nullable=False),
        sa.Column('currency', sa.String(), nullable=False),
        sa.Column('stopped', sa.String(), nullable=False),
        sa.Column('changed_at', sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint('threshold_mt > 0', name='auto_top_up_threshold_positive'),
        sa.CheckConstraint('amount_minor > 0', name='auto_top_up_amount_positive'),
        sa.CheckConstraint('month_max_minor >= amount_minor', name='auto_top_up_ceiling'),
        sa.CheckConstraint(
            "stopped IN ('', 'card_declined', 'authentication_required', 'not_charged', 'reversed', 'currency', 'limits')",
            name='auto_top_up_stopped',
        ),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id'),
    )
    op.create_index(
        'ix_auto_top_up_armed', 'auto_top_up', ['account_id'], sqlite_where=IS_ARMED, postgresql_where=IS_ARMED
    )
    op.execute('ALTER TABLE card_session ADD COLUMN saves_card BOOLEAN NOT NULL DEFAULT FALSE')
    op.create_index(
        'ix_card_session_saves', 'card_session', ['payment_id'], sqlite_where=SAVES_CARD, postgresql_where=SAVES_CARD
    )
    op.create_index(
        'uq_payment_saved_card', 'payment', ['account_id'], unique=True, sqlite_where=CHARGING, postgresql_where=CHARGING
    )


def downgrade() -> None:
    _refuse_to_lose()
    op.drop_index('uq_payment_saved_card', table_name='payment')
    op.drop_index('ix_card_session_saves', table_name='card_session')
    op.execute('ALTER TABLE card_session DROP COLUMN saves_card')
    op.drop_table('auto_top_up')
    op.drop_table('forgotten_card')
    op.drop_table('saved_card')
    op.drop_table('invoice')
    op.drop_table('invoice_series')
    op.drop_table('billing_details')


def _refuse_to_lose() -> None:
    found = op.get_bind()
    if found.execute(sa.text('SELECT 1 FROM invoice LIMIT 1')).first() is not None:
        raise RuntimeError('Invoices were issued: they have to be kept, and numbers would begin again. Stay at 0021.')
    # Also where it was given up: its money may have moved, and nothing of before 0021 asks for it.
    unknown = "SELECT 1 FROM payment WHERE provider = 'saved_card' AND state IN ('pending', 'expired') LIMIT 1"
    if found.execute(sa.text(unknown)).first() is not None:
        raise RuntimeError('A saved card is being charged: let Stripe answer first (Admin, Payments), then go back.')
