"""Teams: roles in an account, who runs the service apart from them, removed users, invitations.

Operators become owners of their accounts who run the service. The way back knows neither members nor removed
users: members become owners, and whom the older version would let spend although nobody allows it goes.
"""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

ROLE = "role IN ('owner', 'member', 'viewer')"
OLD_ROLE = "role IN ('operator', 'owner')"
OPERATOR_ENABLED = 'disabled_at IS NULL OR NOT is_operator'
ENABLED = 'disabled_at IS NULL'
OPEN = 'accepted_at IS NULL AND revoked_at IS NULL'
OLD_COLUMNS = 'id, account_id, email, password_digest, language, created_at, last_sign_in_at'


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        copy_users(
            new_columns(),
            f"INSERT INTO user_copy ({OLD_COLUMNS}, role, is_operator) "
            f"SELECT {OLD_COLUMNS}, 'owner', role = 'operator' FROM user_",
        )
    else:
        op.add_column('user_', sa.Column('is_operator', sa.Boolean(), nullable=False, server_default=sa.false()))
        op.alter_column('user_', 'is_operator', server_default=None)
        op.add_column('user_', sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True))
        op.drop_constraint('user_role', 'user_')
        op.execute("UPDATE user_ SET is_operator = true, role = 'owner' WHERE role = 'operator'")
        op.create_check_constraint('user_role', 'user_', ROLE)
        op.create_check_constraint('user_operator_enabled', 'user_', OPERATOR_ENABLED)
        op.drop_constraint('user__email_key', 'user_')
    op.create_index(
        'uq_user_enabled_email', 'user_', ['email'], unique=True,
        sqlite_where=sa.text(ENABLED), postgresql_where=sa.text(ENABLED),
    )
    op.create_table(
        'invitation',
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
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
    op.create_index(
        'uq_invitation_open', 'invitation', ['account_id', 'email'], unique=True,
        sqlite_where=sa.text(OPEN), postgresql_where=sa.text(OPEN),
    )


def downgrade() -> None:
    op.drop_table('invitation')
    for table in ('user_session', 'sign_in_ticket'):
        op.execute(
            f"DELETE FROM {table} WHERE user_id IN "
            "(SELECT id FROM user_ WHERE disabled_at IS NOT NULL OR (role = 'viewer' AND NOT is_operator))"
        )
    op.execute("DELETE FROM user_ WHERE disabled_at IS NOT NULL OR (role = 'viewer' AND NOT is_operator)")
    op.drop_index('uq_user_enabled_email', table_name='user_')
    if op.get_bind().dialect.name == "sqlite":
        copy_users(
            old_columns(),
            f"INSERT INTO user_copy ({OLD_COLUMNS}, role) "
            f"SELECT {OLD_COLUMNS}, CASE WHEN is_operator THEN 'operator' ELSE 'owner' END FROM user_",
        )
    else:
        op.drop_constraint('user_operator_enabled', 'user_')
        op.drop_constraint('user_role', 'user_')
        op.execute("UPDATE user_ SET role = CASE WHEN is_operator THEN 'operator' ELSE 'owner' END")
        op.create_check_constraint('user_role', 'user_', OLD_ROLE)
        op.create_unique_constraint('user__email_key', 'user_', ['email'])
        op.drop_column('user_', 'disabled_at')
        op.drop_column('user_', 'is_operator')


def copy_users(columns: list[sa.schema.SchemaItem], copy_rows: str) -> None:
    """Make `user_` anew with its rows: SQLite changes no constraint of a table that is there.

    Other tables refer to it, so foreign keys must be off, which `env.py` sees to.
    """
    op.create_table('user_copy', *columns)
    op.execute(copy_rows)
    op.drop_table('user_')
    op.rename_table('user_copy', 'user_')
    op.create_index('ix_user__account_id', 'user_', ['account_id'])


def old_columns() -> list[sa.schema.SchemaItem]:
    return [
        *common_columns(),
        sa.CheckConstraint(OLD_ROLE, name='user_role'),
        sa.UniqueConstraint('email'),
    ]


def new_columns() -> list[sa.schema.SchemaItem]:
    return [
        *common_columns(),
        sa.Column('is_operator', sa.Boolean(), nullable=False),
        sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(ROLE, name='user_role'),
        sa.CheckConstraint(OPERATOR_ENABLED, name='user_operator_enabled'),
    ]


def common_columns() -> list[sa.schema.SchemaItem]:
    return [
        sa.Column('id', sa.String(), nullable=False),
        sa.Column('account_id', sa.String(), nullable=False),
        sa.Column('email', sa.String(), nullable=False),
        sa.Column('password_digest', sa.String(), nullable=False),
        sa.Column('role', sa.String(), nullable=False),
        sa.Column('language', sa.String(), nullable=False),
        sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('last_sign_in_at', sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(['account_id'], ['account.id']),
        sa.PrimaryKeyConstraint('id'),
    ]
