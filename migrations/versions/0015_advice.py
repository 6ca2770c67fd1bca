"""Advice: runs of the same pictures that were started together to be compared."""

import sqlalchemy as sa
from alembic import op

revision = '0015'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'advice',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('actor', sa.String(), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_advice_account', 'advice', ['account_id', 'created_at'])
    op.create_table(
        'advice_job',
        sa.Column('advice_id', sa.String(), nullable=False),
        sa.Column('position', sa.Integer(), nullable=False),
        sa.Column('job_id', sa.String(), nullable=False),
        sa.ForeignKeyConstraint(['advice_id'], ['advice.id']),
        sa.ForeignKeyConstraint(['job_id'], ['job.id']),
        sa.PrimaryKeyConstraint('advice_id', 'position'),
    )
    op.create_index('ix_advice_job_job', 'advice_job', ['job_id'])


def downgrade() -> None:
    op.drop_table('advice_job')
    op.drop_table('advice')
