"""Which quotes wait to be run, and what their pictures take on the disk meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None

WAITING = 'ran_at IS NULL'
STORED = 'stored_bytes > 0'


def upgrade() -> None:
    moment = 'DATETIME' if op.get_bind().dialect.name == 'sqlite' else 'TIMESTAMP WITH TIME ZONE'
    op.execute(f'ALTER TABLE quote ADD COLUMN ran_at {moment}')
    op.execute(
        'ALTER TABLE quote ADD COLUMN stored_bytes BIGINT NOT NULL DEFAULT 0 '
        'CONSTRAINT quote_stored_not_negative CHECK (stored_bytes >= 0)'
    )
    op.execute(
        'UPDATE quote SET ran_at = (SELECT job.created_at FROM job WHERE job.quote_id = quote.id) '
        'WHERE id IN (SELECT quote_id FROM job)'
    )
    # One that had expired was run as a new quote of the same pictures: it stays, as what was asked for.
    op.execute(
        "UPDATE quote SET ran_at = created_at WHERE ran_at IS NULL "
        "AND id IN (SELECT key FROM idempotency WHERE operation = 'run')"
    )
    op.create_index(
        'ix_quote_unrun', 'quote', ['expires_at'], sqlite_where=sa.text(WAITING), postgresql_where=sa.text(WAITING)
    )
    op.create_index(
        'ix_quote_stored', 'quote', ['account_id', 'expires_at', 'stored_bytes'],
        sqlite_where=sa.text(STORED), postgresql_where=sa.text(STORED),
    )
    op.create_index('ix_receipt_quote', 'receipt', ['quote_id'])


def downgrade() -> None:
    op.drop_index('ix_receipt_quote', table_name='receipt')
    op.drop_index('ix_quote_stored', table_name='quote')
    op.drop_index('ix_quote_unrun', table_name='quote')
    op.execute('ALTER TABLE quote DROP COLUMN stored_bytes')
    op.execute('ALTER TABLE quote DROP COLUMN ran_at')
