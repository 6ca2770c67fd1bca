"""The plan of an account, and the one that a run was started under."""

from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ('account', 'job'):
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN plan VARCHAR NOT NULL DEFAULT 'standard' "
            f"CONSTRAINT {table}_plan CHECK (plan IN ('standard', 'vip'))"
        )


def downgrade() -> None:
    for table in ('job', 'account'):
        op.execute(f'ALTER TABLE {table} DROP COLUMN plan')
