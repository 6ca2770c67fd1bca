"""Invitations of new customers, who belong to no account yet."""

import sqlalchemy as sa
from alembic import op

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None

ROLE = "role IN ('owner', 'member', 'viewer')"
OPEN = 'accepted_at IS NULL AND revoked_at IS NULL'
INVITATION = 'id, account_id, email, role, digest, invited_by, created_at, expires_at, accepted_at, revoked_at'


def upgrade() -> None:
    set_account_nullable(True)


def downgrade() -> None:
    op.execute('DELETE FROM invitation WHERE account_id IS NULL')
    set_account_nullable(False)


def set_account_nullable(nullable: bool) -> None:
    if op.get_bind().dialect.name != 'sqlite':
        op.alter_column('invitation', 'account_id', nullable=nullable)
        return
    op.create_table(
        'invitation_copy',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=nullable),
        sa.Column('email', sa.String(), nullable=False),
        sa.Column('role', sa.String(), nullable=False),
        sa.Column('digest', sa.String(), nullable=False),
        sa.Column('invited_by', sa.String(), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('accepted_at', sa.DateTime(timezone=True), nullable=True),
        sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(ROLE, name='invitation_role'),
        sa.CheckConstraint('accepted_at IS NULL OR revoked_at IS NULL', name='invitation_ends_once'),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.ForeignKeyConstraint(['invited_by'], ['user_.id']),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('digest'),
    )
    op.execute(f'INSERT INTO invitation_copy ({INVITATION}) SELECT {INVITATION} FROM invitation')
    op.drop_table('invitation')
    op.rename_table('invitation_copy', 'invitation')
    op.create_index(
        'uq_invitation_open', 'invitation', ['account_id', 'email'], unique=True, sqlite_where=sa.text(OPEN)
    )
