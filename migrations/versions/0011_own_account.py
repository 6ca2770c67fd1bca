"""One's own sign-in: sessions that can be told apart, and a time zone."""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('user_', sa.Column('time_zone', sa.String(), nullable=True))
    op.execute("ALTER TABLE user_session ADD COLUMN id VARCHAR NOT NULL DEFAULT ''")
    op.execute("UPDATE user_session SET id = 'sess_' || substr(digest, 1, 24)")
    op.create_index('uq_user_session_id', 'user_session', ['id'], unique=True)
    op.add_column('user_session', sa.Column('last_seen_at', sa.DateTime(timezone=True), nullable=True))
    op.execute("ALTER TABLE user_session ADD COLUMN browser VARCHAR NOT NULL DEFAULT ''")


def downgrade() -> None:
    op.drop_index('uq_user_session_id', table_name='user_session')
    for column in ('browser', 'last_seen_at', 'id'):
        op.execute(f'ALTER TABLE user_session DROP COLUMN {column}')
    op.execute('ALTER TABLE user_ DROP COLUMN time_zone')
