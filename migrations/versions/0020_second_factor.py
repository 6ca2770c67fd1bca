"""Second factors: what makes a user's codes, his recovery codes, and sign-ins that wait for a code."""

import sqlalchemy as sa
from alembic import op

revision = '0020'
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'second_factor',
        sa.Column('user_id', sa.String(), nullable=False),
        sa.Column('sealed_seed', sa.String(), nullable=False),
        sa.Column('key_id', sa.String(), nullable=False),
        sa.Column('turned_on_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('last_step', sa.BigInteger(), nullable=False),
        sa.Column('failures', sa.Integer(), nullable=False),
        sa.CheckConstraint('failures >= 0', name='second_factor_failures_not_negative'),
        sa.ForeignKeyConstraint(['user_id'], ['user_.id']),
        sa.PrimaryKeyConstraint('user_id'),
    )
    op.create_table(
        'recovery_code',
        sa.Column('user_id', sa.String(), nullable=False),
        sa.Column('digest', sa.String(), nullable=False),
        sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(['user_id'], ['user_.id']),
        sa.PrimaryKeyConstraint('user_id', 'digest'),
    )
    op.create_table(
        'sign_in_step',
        sa.Column('digest', sa.String(), nullable=False),
        sa.Column('user_id', sa.String(), nullable=False),
        sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('wrong_codes', sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(['user_id'], ['user_.id']),
        sa.PrimaryKeyConstraint('digest'),
    )
    op.create_index('ix_sign_in_step_user_id', 'sign_in_step', ['user_id'])


def downgrade() -> None:
    op.drop_table('sign_in_step')
    op.drop_table('recovery_code')
    op.drop_table('second_factor')
