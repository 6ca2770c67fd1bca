"""Links with which an account is opened, and the kind of mail that brings them."""

import sqlalchemy as sa
from alembic import op

revision = '0023'
down_revision = "0022"
branch_labels = None
depends_on = None

OPEN = sa.text('ended_at IS NULL')
KINDS = "kind IN ('confirm', 'reset', 'low_balance')"
KINDS_WITH_SIGN_UP = "kind IN ('confirm', 'reset', 'sign_up', 'low_balance')"
MAIL = (
    'id, kind, user_id, email, address_digest, facts, attempts, next_attempt_at, outcome, last_error, created_at, '
    'ended_at'
)


def moment(name: str, *, nullable: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        'sign_up_link',
        sa.Column('digest', sa.String(), nullable=False),
        sa.Column('email', sa.String(), nullable=False),
        moment('created_at'),
        moment('expires_at'),
        moment('used_at', nullable=True),
        sa.PrimaryKeyConstraint('digest'),
    )
    op.create_index('ix_sign_up_link_email', 'sign_up_link', ['email'])
    op.create_index('ix_sign_up_link_expires_at', 'sign_up_link', ['expires_at'])
    take_kinds(KINDS_WITH_SIGN_UP)


def take_kinds(kinds: str) -> None:
    """Let a mail be of these kinds."""
    if op.get_bind().dialect.name != 'sqlite':
        op.drop_constraint('mail_kind', 'mail')
        op.create_check_constraint('mail_kind', 'mail', kinds)
        return
    op.create_table(
        'mail_copy',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('kind', sa.String(), nullable=False),
        sa.Column('user_id', sa.String(), nullable=True),
        sa.Column('email', sa.String(), nullable=False),
        sa.Column('address_digest', sa.String(), nullable=False),
        sa.Column('facts', sa.JSON(), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        moment('next_attempt_at'),
        sa.Column('outcome', sa.String(), nullable=False),
        sa.Column('last_error', sa.String(), nullable=False),
        moment('created_at'),
        moment('ended_at', nullable=True),
        sa.CheckConstraint(kinds, name='mail_kind'),
        sa.CheckConstraint("outcome IN ('', 'sent', 'given_up', 'dropped')", name='mail_outcome'),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome = '')", name='mail_ends_with_an_outcome'),
        sa.CheckConstraint('attempts >= 0', name='mail_attempts_not_negative'),
        sa.ForeignKeyConstraint(['user_id'], ['user_.id']),
        sa.PrimaryKeyConstraint('id'),
    )
    op.execute(f'INSERT INTO mail_copy ({MAIL}) SELECT {MAIL} FROM mail')
    op.drop_table('mail')
    op.rename_table('mail_copy', 'mail')
    op.create_index('ix_mail_due', 'mail', ['next_attempt_at'], sqlite_where=OPEN)
    op.create_index('ix_mail_user', 'mail', ['user_id', 'kind', 'created_at'])
    op.create_index('ix_mail_address', 'mail', ['address_digest', 'created_at'])
    op.create_index('ix_mail_created_at', 'mail', ['created_at'])


def downgrade() -> None:
    # The older version has no words for them; whoever waits for one asks again.
    op.execute("DELETE FROM mail WHERE kind = 'sign_up'")
    take_kinds(KINDS)
    op.drop_table('sign_up_link')
