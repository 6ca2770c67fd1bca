"""First tables: accounts, holds, entries, prices, quotes, jobs, results, usage, vouchers, users.

Entries are append-only: triggers refuse to change or delete one.
"""

import sqlalchemy as sa
from alembic import op

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('account',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('posted_mt', sa.BigInteger(), nullable=False),
    sa.Column('held_mt', sa.BigInteger(), nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('is_demo', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("status IN ('active', 'frozen')", name='account_status'),
    sa.CheckConstraint('held_mt >= 0', name='account_held_not_negative'),
    sa.CheckConstraint('posted_mt >= held_mt', name='account_posted_covers_held'),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('price_book',
    sa.Column('version', sa.String(), nullable=False),
    sa.Column('alpha', sa.String(length=40), nullable=False),
    sa.Column('minimum', sa.String(length=40), nullable=False),
    sa.Column('note', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('version')
    )
    op.create_table('sign_in_attempt',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('email_digest', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_attempt', 'sign_in_attempt', ['email_digest', 'created_at'], unique=False)

    op.create_table('hold',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('amount_mt', sa.BigInteger(), nullable=False),
    sa.Column('captured_mt', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('charge_key', sa.String(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("captured_mt = 0 OR status = 'captured'", name='hold_captured_only_when_captured'),
    sa.CheckConstraint("status IN ('held', 'captured', 'released', 'expired')", name='hold_status'),
    sa.CheckConstraint('amount_mt > 0', name='hold_amount_positive'),
    sa.CheckConstraint('captured_mt >= 0 AND captured_mt <= amount_mt', name='hold_captured_within_amount'),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_hold_due', 'hold', ['expires_at'], unique=False, sqlite_where=sa.text("status = 'held'"), postgresql_where=sa.text("status = 'held'"))
    op.create_index('uq_hold_charge_key', 'hold', ['account_id', 'charge_key'], unique=True, sqlite_where=sa.text("status IN ('held', 'captured')"), postgresql_where=sa.text("status IN ('held', 'captured')"))

    op.create_table('idempotency',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('operation', sa.String(), nullable=False),
    sa.Column('key', sa.String(), nullable=False),
    sa.Column('request_hash', sa.String(), nullable=False),
    sa.Column('response', sa.JSON(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('account_id', 'operation', 'key', name='uq_idempotency')
    )
    op.create_table('quote',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('price_version', sa.String(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('model_version', sa.String(), nullable=False),
    sa.Column('img_size', sa.Integer(), nullable=False),
    sa.Column('total_mt', sa.BigInteger(), nullable=False),
    sa.Column('lines', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('total_mt >= 0', name='quote_total_not_negative'),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['price_version'], ['price_book.version'], ),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_quote_account', 'quote', ['account_id', 'created_at'], unique=False)

    op.create_table('rate',
    sa.Column('price_version', sa.String(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('beta', sa.String(length=40), nullable=False),
    sa.ForeignKeyConstraint(['price_version'], ['price_book.version'], ),
    sa.PrimaryKeyConstraint('price_version', 'model')
    )
    op.create_table('result',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('charge_key', sa.String(), nullable=False),
    sa.Column('image_sha256', sa.String(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('model_version', sa.String(), nullable=False),
    sa.Column('img_size', sa.Integer(), nullable=False),
    sa.Column('detections', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('account_id', 'charge_key', name='uq_result')
    )
    op.create_table('user_',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('email', sa.String(), nullable=False),
    sa.Column('password_digest', sa.String(), nullable=False),
    sa.Column('role', sa.String(), nullable=False),
    sa.Column('language', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('last_sign_in_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("role IN ('operator', 'owner')", name='user_role'),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('email')
    )
    op.create_index('ix_user__account_id', 'user_', ['account_id'], unique=False)

    op.create_table('voucher',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('code', sa.String(), nullable=False),
    sa.Column('amount_mt', sa.BigInteger(), nullable=False),
    sa.Column('note', sa.String(), nullable=False),
    sa.Column('created_by', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('redeemed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('redeemed_by', sa.String(), nullable=True),
    sa.CheckConstraint('(redeemed_at IS NULL) = (redeemed_by IS NULL)', name='voucher_redeemed_by_somebody'),
    sa.CheckConstraint('amount_mt > 0', name='voucher_amount_positive'),
    sa.ForeignKeyConstraint(['redeemed_by'], ['account.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('code')
    )
    op.create_table('entry',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('seq', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.String(), nullable=False),
    sa.Column('debit_account', sa.String(), nullable=False),
    sa.Column('credit_account', sa.String(), nullable=False),
    sa.Column('amount_mt', sa.BigInteger(), nullable=False),
    sa.Column('posted_change_mt', sa.BigInteger(), nullable=False),
    sa.Column('held_change_mt', sa.BigInteger(), nullable=False),
    sa.Column('posted_after_mt', sa.BigInteger(), nullable=False),
    sa.Column('held_after_mt', sa.BigInteger(), nullable=False),
    sa.Column('hold_id', sa.String(), nullable=True),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('memo', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('amount_mt >= 0', name='entry_amount_not_negative'),
    sa.CheckConstraint('debit_account <> credit_account', name='entry_two_accounts'),
    sa.CheckConstraint('held_after_mt >= 0', name='entry_held_not_negative'),
    sa.CheckConstraint('posted_after_mt >= held_after_mt', name='entry_posted_covers_held'),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['hold_id'], ['hold.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('account_id', 'seq', name='uq_entry_seq')
    )
    op.create_index('ix_entry_created', 'entry', ['account_id', 'created_at'], unique=False)
    op.create_index('ix_entry_hold_id', 'entry', ['hold_id'], unique=False)
    op.create_index('uq_entry_hold_end', 'entry', ['hold_id'], unique=True, sqlite_where=sa.text("kind IN ('capture', 'release', 'expire')"), postgresql_where=sa.text("kind IN ('capture', 'release', 'expire')"))

    op.create_table('job',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('quote_id', sa.String(), nullable=False),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('model_version', sa.String(), nullable=False),
    sa.Column('img_size', sa.Integer(), nullable=False),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('runner', sa.String(), nullable=True),
    sa.Column('lease_expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("status IN ('queued', 'running', 'finished')", name='job_status'),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['quote_id'], ['quote.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('quote_id')
    )
    op.create_index('ix_job_account', 'job', ['account_id', 'created_at'], unique=False)
    op.create_index('ix_job_status', 'job', ['status', 'created_at'], unique=False)

    op.create_table('receipt',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('hold_id', sa.String(), nullable=False),
    sa.Column('quote_id', sa.String(), nullable=False),
    sa.Column('price_version', sa.String(), nullable=False),
    sa.Column('image_name', sa.String(), nullable=False),
    sa.Column('image_sha256', sa.String(), nullable=False),
    sa.Column('image_height', sa.Integer(), nullable=False),
    sa.Column('image_width', sa.Integer(), nullable=False),
    sa.Column('input_height', sa.Integer(), nullable=False),
    sa.Column('input_width', sa.Integer(), nullable=False),
    sa.Column('img_size', sa.Integer(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('model_version', sa.String(), nullable=False),
    sa.Column('alpha', sa.String(length=40), nullable=False),
    sa.Column('beta', sa.String(length=40), nullable=False),
    sa.Column('minimum', sa.String(length=40), nullable=False),
    sa.Column('amount_mt', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['hold_id'], ['hold.id'], ),
    sa.ForeignKeyConstraint(['price_version'], ['price_book.version'], ),
    sa.ForeignKeyConstraint(['quote_id'], ['quote.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('hold_id')
    )
    op.create_index('ix_receipt_account', 'receipt', ['account_id', 'created_at'], unique=False)

    op.create_table('sign_in_ticket',
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('user_id', sa.String(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['user_.id'], ),
    sa.PrimaryKeyConstraint('digest')
    )
    op.create_table('user_session',
    sa.Column('digest', sa.String(), nullable=False),
    sa.Column('user_id', sa.String(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['user_id'], ['user_.id'], ),
    sa.PrimaryKeyConstraint('digest')
    )
    op.create_index('ix_user_session_user_id', 'user_session', ['user_id'], unique=False)

    op.create_table('job_image',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('job_id', sa.String(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('file_sha256', sa.String(), nullable=False),
    sa.Column('image_sha256', sa.String(), nullable=False),
    sa.Column('height', sa.Integer(), nullable=False),
    sa.Column('width', sa.Integer(), nullable=False),
    sa.Column('charge_key', sa.String(), nullable=False),
    sa.Column('amount_mt', sa.BigInteger(), nullable=False),
    sa.Column('hold_id', sa.String(), nullable=True),
    sa.Column('status', sa.String(), nullable=False),
    sa.Column('error_code', sa.String(), nullable=True),
    sa.Column('wait_ms', sa.Integer(), nullable=True),
    sa.Column('model_ms', sa.Integer(), nullable=True),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("status IN ('queued', 'running', 'charged', 'free', 'failed', 'cancelled', 'interrupted')", name='job_image_status'),
    sa.ForeignKeyConstraint(['hold_id'], ['hold.id'], ),
    sa.ForeignKeyConstraint(['job_id'], ['job.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('job_id', 'position', name='uq_job_image_position')
    )
    op.create_index('ix_job_image_charge_key', 'job_image', ['charge_key'], unique=False)
    op.create_index('ix_job_image_hold', 'job_image', ['hold_id'], unique=False)
    op.create_index('ix_job_image_status', 'job_image', ['status'], unique=False)

    op.create_table('usage_record',
    sa.Column('id', sa.String(), nullable=False),
    sa.Column('account_id', sa.String(), nullable=False),
    sa.Column('job_id', sa.String(), nullable=True),
    sa.Column('actor', sa.String(), nullable=False),
    sa.Column('model', sa.String(), nullable=False),
    sa.Column('model_version', sa.String(), nullable=False),
    sa.Column('img_size', sa.Integer(), nullable=False),
    sa.Column('input_height', sa.Integer(), nullable=False),
    sa.Column('input_width', sa.Integer(), nullable=False),
    sa.Column('amount_mt', sa.BigInteger(), nullable=False),
    sa.Column('outcome', sa.String(), nullable=False),
    sa.Column('error_code', sa.String(), nullable=True),
    sa.Column('wait_ms', sa.Integer(), nullable=True),
    sa.Column('model_ms', sa.Integer(), nullable=True),
    sa.Column('class_counts', sa.JSON(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("outcome IN ('charged', 'free', 'failed', 'cancelled', 'interrupted')", name='usage_outcome'),
    sa.CheckConstraint('amount_mt >= 0', name='usage_amount_not_negative'),
    sa.ForeignKeyConstraint(['account_id'], ['account.id'], ),
    sa.ForeignKeyConstraint(['job_id'], ['job.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_usage_account_time', 'usage_record', ['account_id', 'created_at'], unique=False)

    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER entry_no_{action.lower()} BEFORE {action} ON entry "
                "BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION refuse_entry_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'entries are append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE ON entry "
            "FOR EACH ROW EXECUTE FUNCTION refuse_entry_change()"
        )


def downgrade() -> None:
    op.drop_index('ix_usage_account_time', table_name='usage_record')

    op.drop_table('usage_record')
    op.drop_index('ix_job_image_status', table_name='job_image')
    op.drop_index('ix_job_image_hold', table_name='job_image')
    op.drop_index('ix_job_image_charge_key', table_name='job_image')

    op.drop_table('job_image')
    op.drop_index('ix_user_session_user_id', table_name='user_session')

    op.drop_table('user_session')
    op.drop_table('sign_in_ticket')
    op.drop_index('ix_receipt_account', table_name='receipt')

    op.drop_table('receipt')
    op.drop_index('ix_job_status', table_name='job')
    op.drop_index('ix_job_account', table_name='job')

    op.drop_table('job')
    op.drop_index('uq_entry_hold_end', table_name='entry')
    op.drop_index('ix_entry_hold_id', table_name='entry')
    op.drop_index('ix_entry_created', table_name='entry')

    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP TRIGGER entry_append_only ON entry")
        op.execute("DROP FUNCTION refuse_entry_change()")
    op.drop_table('entry')
    op.drop_table('voucher')
    op.drop_index('ix_user__account_id', table_name='user_')

    op.drop_table('user_')
    op.drop_table('result')
    op.drop_table('rate')
    op.drop_index('ix_quote_account', table_name='quote')

    op.drop_table('quote')
    op.drop_table('idempotency')
    op.drop_index('uq_hold_charge_key', table_name='hold')
    op.drop_index('ix_hold_due', table_name='hold')

    op.drop_table('hold')
    op.drop_index('ix_attempt', table_name='sign_in_attempt')

    op.drop_table('sign_in_attempt')
    op.drop_table('price_book')
    op.drop_table('account')
