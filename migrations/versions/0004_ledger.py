"""Refunds, spending caps, low-balance alerts, the hash chain, and sums of entries and usage by quarters of an hour."""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

ACCOUNT_COLUMNS = {
    "day_cap_mt": "BIGINT CONSTRAINT account_day_cap_not_negative CHECK (day_cap_mt >= 0)",
    "month_cap_mt": "BIGINT CONSTRAINT account_month_cap_not_negative CHECK (month_cap_mt >= 0)",
    "spend_day": "DATE",
    "day_spent_mt": "BIGINT NOT NULL DEFAULT 0 CONSTRAINT account_day_spent_not_negative CHECK (day_spent_mt >= 0)",
    "month_spent_mt": "BIGINT NOT NULL DEFAULT 0 CONSTRAINT account_month_spent_not_negative CHECK (month_spent_mt >= 0)",
    "alert_below_mt": "BIGINT CONSTRAINT account_alert_positive CHECK (alert_below_mt > 0)",
}
HOLD_COLUMNS = {
    "refunded_mt": "BIGINT NOT NULL DEFAULT 0 "
    "CONSTRAINT hold_refunded_within_captured CHECK (refunded_mt >= 0 AND refunded_mt <= captured_mt)",
    "spend_day": "DATE",
    "budget_id": "VARCHAR",  # no foreign key: SQLite could not drop the column again
}
OUTCOMES = ("charged", "free", "failed", "cancelled", "interrupted")
NOT_USAGE = "kind NOT IN ('hold', 'capture', 'release', 'expire')"
NOT_USAGE_INDEXES = {"ix_entry_not_usage": ("seq", "kind"), "ix_entry_not_usage_created": ("created_at",)}
# Indexes that are there already, and the columns that they get at their end.
LONGER_INDEXES = {
    "ix_entry_created": ("entry", ("account_id", "created_at"), ("seq",)),
    "ix_job_image_charge_key": ("job_image", ("charge_key",), ("status",)),
    "ix_receipt_account": ("receipt", ("account_id", "created_at"), ("id", "image_name")),
}


def upgrade() -> None:
    op.create_table(
        'budget',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('day_cap_mt', sa.BigInteger(), nullable=True),
        sa.Column('month_cap_mt', sa.BigInteger(), nullable=True),
        sa.Column('spend_day', sa.Date(), nullable=True),
        sa.Column('day_spent_mt', sa.BigInteger(), nullable=False),
        sa.Column('month_spent_mt', sa.BigInteger(), nullable=False),
        sa.CheckConstraint('day_cap_mt >= 0 AND month_cap_mt >= 0', name='budget_caps_not_negative'),
        sa.CheckConstraint('day_spent_mt >= 0', name='budget_day_spent_not_negative'),
        sa.CheckConstraint('month_spent_mt >= 0', name='budget_month_spent_not_negative'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_budget_account', 'budget', ['account_id'])
    # In plain SQL: SQLite can add a column with its CHECK, and copying `account` and `hold` would take the
    # entries' foreign keys along.
    for name, definition in ACCOUNT_COLUMNS.items():
        op.execute(f"ALTER TABLE account ADD COLUMN {name} {definition}")
    for name, definition in HOLD_COLUMNS.items():
        op.execute(f"ALTER TABLE hold ADD COLUMN {name} {definition}")
    op.execute("ALTER TABLE price_book ADD COLUMN refund_rules JSON NOT NULL DEFAULT '[]'")
    for name, columns in NOT_USAGE_INDEXES.items():
        op.create_index(
            name, 'entry', ['account_id', *columns], sqlite_where=sa.text(NOT_USAGE), postgresql_where=sa.text(NOT_USAGE)
        )
    for name, (table, columns, more) in LONGER_INDEXES.items():
        op.drop_index(name, table_name=table)
        op.create_index(name, table, [*columns, *more])
    op.create_table(
        'seal',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('seq', sa.BigInteger(), nullable=False),
        sa.Column('digest', sa.String(), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id', 'seq'),
    )
    op.create_table(
        'low_balance_alert',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('seq', sa.BigInteger(), nullable=False),
        sa.Column('threshold_mt', sa.BigInteger(), nullable=False),
        sa.Column('posted_after_mt', sa.BigInteger(), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('dismissed_at', sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id', 'seq'),
    )
    op.create_table(
        'entry_slot',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('slot', sa.BigInteger(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('entries', sa.BigInteger(), nullable=False),
        sa.Column('posting', sa.BigInteger(), nullable=False),
        sa.Column('posted_mt', sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id', 'slot', 'kind'),
        sqlite_with_rowid=False,
    )
    op.create_table(
        'roll_up',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('seq', sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id'),
    )
    op.create_table(
        'usage_slot',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('model', sa.String(), nullable=False),
        sa.Column('slot', sa.BigInteger(), nullable=False),
        *(sa.Column(outcome, sa.BigInteger(), nullable=False) for outcome in OUTCOMES),
        sa.Column('amount_mt', sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            'charged >= 0 AND free >= 0 AND failed >= 0 AND cancelled >= 0 AND interrupted >= 0 AND amount_mt >= 0',
            name='usage_slot_not_negative',
        ),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id', 'model', 'slot'),
        sqlite_with_rowid=False,
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    # SQLite rounds to milliseconds, which would carry the last half of one over into the next slot.
    seconds = (
        "CAST(strftime('%s', substr(created_at, 1, 19)) AS INTEGER)"
        if sqlite
        else "floor(extract(epoch FROM created_at))::bigint"
    )
    counts = ", ".join(f"count(*) FILTER (WHERE outcome = '{outcome}')" for outcome in OUTCOMES)
    op.execute(
        f"INSERT INTO usage_slot (account_id, model, slot, {', '.join(OUTCOMES)}, amount_mt) "
        f"SELECT account_id, model, {seconds} / 900, {counts}, sum(amount_mt) FROM usage_record "
        f"GROUP BY account_id, model, {seconds} / 900"
    )
    if sqlite:
        for table, noun in (("seal", "seals"), ("low_balance_alert", "alerts")):
            for action in ("UPDATE", "DELETE"):
                if (table, action) == ("low_balance_alert", "UPDATE"):
                    continue  # an alert is dismissed
                op.execute(
                    f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{noun} are append-only'); END"
                )
    else:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
        op.execute(
            "CREATE TRIGGER seal_append_only BEFORE UPDATE OR DELETE ON seal "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            "CREATE TRIGGER low_balance_alert_no_delete BEFORE DELETE ON low_balance_alert "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        # TRUNCATE fires no row trigger.
        for table in ("entry", "seal"):
            op.execute(
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )


def downgrade() -> None:
    op.drop_table('usage_slot')
    op.drop_table('roll_up')
    op.drop_table('entry_slot')
    op.drop_table('low_balance_alert')
    op.drop_table('seal')
    for name in NOT_USAGE_INDEXES:
        op.drop_index(name, table_name='entry')
    for name, (table, columns, _more) in LONGER_INDEXES.items():
        op.drop_index(name, table_name=table)
        op.create_index(name, table, list(columns))
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP TRIGGER entry_no_truncate ON entry")
        op.execute("DROP FUNCTION refuse_change()")
    for table, columns in (("hold", HOLD_COLUMNS), ("account", ACCOUNT_COLUMNS)):
        for name in reversed(columns):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
    op.execute("ALTER TABLE price_book DROP COLUMN refund_rules")
    op.drop_table('budget')
