"""API keys, the audit log, and webhooks."""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

UNDELIVERED = 'delivered_at IS NULL AND given_up_at IS NULL'


def moment(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        'api_key',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('created_by', sa.String(), nullable=False),
        sa.Column('name', sa.String(), nullable=False),
        sa.Column('prefix', sa.String(), nullable=False),
        sa.Column('digest', sa.String(), nullable=False),
        sa.Column('models', sa.JSON(), nullable=True),
        sa.Column('networks', sa.JSON(), nullable=True),
        sa.Column('budget_id', sa.String(), nullable=False),
        sa.Column('manages_keys', sa.Boolean(), nullable=False),
        moment('created_at'),
        moment('expires_at', nullable=True),
        moment('revoked_at', nullable=True),
        moment('last_used_at', nullable=True),
        sa.Column('replaced_by', sa.String(), nullable=True),
        sa.CheckConstraint('length(name) BETWEEN 1 AND 80', name='api_key_name'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.ForeignKeyConstraint(['budget_id'], ['budget.id']),
        sa.ForeignKeyConstraint(['created_by'], ['user_.id']),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('digest'),
    )
    op.create_index('ix_api_key_prefix', 'api_key', ['prefix'])
    op.create_index('ix_api_key_account', 'api_key', ['account_id', 'created_at'])
    op.create_table(
        'audit_event',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=True),
        sa.Column('actor', sa.String(), nullable=False),
        sa.Column('action', sa.String(), nullable=False),
        sa.Column('subject', sa.String(), nullable=False),
        sa.Column('details', sa.JSON(), nullable=False),
        sa.Column('request_id', sa.String(), nullable=True),
        moment('created_at'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_audit_event_account', 'audit_event', ['account_id', 'created_at'])
    op.create_index('ix_audit_event_created_at', 'audit_event', ['created_at'])
    op.create_table(
        'webhook_secret',
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('secret', sa.String(), nullable=False),
        moment('created_at'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('account_id'),
    )
    op.create_table(
        'webhook_delivery',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('job_id', sa.String(), nullable=False),
        sa.Column('url', sa.String(), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        moment('next_attempt_at'),
        sa.Column('last_status', sa.Integer(), nullable=True),
        moment('delivered_at', nullable=True),
        moment('given_up_at', nullable=True),
        moment('created_at'),
        sa.CheckConstraint('delivered_at IS NULL OR given_up_at IS NULL', name='webhook_ends_once'),
        sa.CheckConstraint('attempts >= 0', name='webhook_attempts_not_negative'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.ForeignKeyConstraint(['job_id'], ['job.id']),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('job_id'),
    )
    op.create_index(
        'ix_webhook_due', 'webhook_delivery', ['next_attempt_at'],
        sqlite_where=sa.text(UNDELIVERED), postgresql_where=sa.text(UNDELIVERED),
    )
    op.execute('ALTER TABLE job ADD COLUMN webhook_url VARCHAR')
    # A usage by key or person asks for one actor's records.
    op.create_index('ix_usage_account_actor', 'usage_record', ['account_id', 'actor', 'created_at'])
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_event_no_{action.lower()} BEFORE {action} ON audit_event "
                "BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER audit_event_append_only BEFORE UPDATE OR DELETE ON audit_event "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            "CREATE TRIGGER audit_event_no_truncate BEFORE TRUNCATE ON audit_event "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    op.drop_index('ix_usage_account_actor', table_name='usage_record')
    op.execute('ALTER TABLE job DROP COLUMN webhook_url')
    op.drop_table('webhook_delivery')
    op.drop_table('webhook_secret')
    op.drop_table('audit_event')
    op.drop_table('api_key')
