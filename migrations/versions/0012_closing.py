"""Accounts that are closed, and what is remembered of an address that was forgotten."""

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('account', sa.Column('closed_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('account', sa.Column('purged_at', sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        'ix_account_to_purge',
        'account',
        ['closed_at'],
        sqlite_where=sa.text('closed_at IS NOT NULL AND purged_at IS NULL'),
        postgresql_where=sa.text('closed_at IS NOT NULL AND purged_at IS NULL'),
    )
    op.add_column('user_', sa.Column('forgotten_digest', sa.String(), nullable=True))
    op.create_index(
        'ix_user_forgotten',
        'user_',
        ['forgotten_digest'],
        sqlite_where=sa.text('forgotten_digest IS NOT NULL'),
        postgresql_where=sa.text('forgotten_digest IS NOT NULL'),
    )


def downgrade() -> None:
    op.drop_index('ix_user_forgotten', table_name='user_')
    op.execute('ALTER TABLE user_ DROP COLUMN forgotten_digest')
    op.drop_index('ix_account_to_purge', table_name='account')
    for column in ('purged_at', 'closed_at'):
        op.execute(f'ALTER TABLE account DROP COLUMN {column}')
