"""What the page Usage asks by caller and model: money given back, how long images took, which classes they showed."""

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None

UNPAID = "('failed', 'cancelled', 'interrupted')"
# Each with the columns that end its key, and the one that is summed.
TABLES = {
    'usage_given_back_slot': (('outcome', sa.String()), 'amount_mt', ('usage_given_back_positive', 'amount_mt > 0')),
    'usage_latency_slot': (
        ('from_ms', sa.BigInteger()),
        'images',
        ('usage_latency_positive', 'from_ms >= 0 AND images > 0'),
    ),
    'usage_class_slot': (('class_name', sa.String()), 'objects', ('usage_class_positive', 'objects > 0')),
}


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == 'sqlite'
    for table, ((last, kind), summed, (check, condition)) in TABLES.items():
        op.create_table(
            table,
            sa.Column('account_id', sa.String(), nullable=False),
            sa.Column('actor', sa.String(), nullable=False),
            sa.Column('model', sa.String(), nullable=False),
            sa.Column('slot', sa.BigInteger(), nullable=False),
            sa.Column(last, kind, nullable=False),
            sa.Column(summed, sa.BigInteger(), nullable=False),
            sa.CheckConstraint(condition, name=check),
            sa.ForeignKeyConstraint(['account_id'], ['account.id']),
            sa.PrimaryKeyConstraint('account_id', 'actor', 'model', 'slot', last),
            sqlite_with_rowid=False,
        )
    op.add_column('usage_record', sa.Column('given_back_mt', sa.BigInteger(), nullable=True))

    # Records do not say what went back before: the images of the runs do.
    op.execute(
        'INSERT INTO usage_given_back_slot (account_id, actor, model, slot, outcome, amount_mt) '
        f"SELECT j.account_id, j.actor, j.model, {_slot('i.finished_at', sqlite)}, i.status, "
        f'sum(CASE WHEN i.status IN {UNPAID} THEN i.amount_mt ELSE i.returned_mt END) '
        'FROM job_image i JOIN job j ON j.id = i.job_id '
        f"WHERE i.finished_at IS NOT NULL AND ((i.status IN {UNPAID} AND i.hold_id IS NOT NULL AND i.amount_mt > 0) "
        "OR (i.status = 'charged' AND i.returned_mt > 0)) GROUP BY 1, 2, 3, 4, 5"
    )
    whose = f"r.account_id, r.actor, r.model, {_slot('r.created_at', sqlite)}"
    op.execute(
        'INSERT INTO usage_latency_slot (account_id, actor, model, slot, from_ms, images) '
        f'SELECT {whose}, {_lower_bound()}, count(*) FROM usage_record r '
        'WHERE r.wait_ms >= 0 AND r.model_ms >= 0 GROUP BY 1, 2, 3, 4, 5'
    )
    name, count, classes = (
        ('c.key', 'CAST(c.value AS INTEGER)', 'json_each(r.class_counts) c')
        if sqlite
        else ('c.key', 'c.value::bigint', 'json_each_text(r.class_counts) c')
    )
    op.execute(
        'INSERT INTO usage_class_slot (account_id, actor, model, slot, class_name, objects) '
        f'SELECT {whose}, {name}, sum({count}) FROM usage_record r, {classes} '
        f'WHERE {count} > 0 GROUP BY 1, 2, 3, 4, 5'
    )


def downgrade() -> None:
    op.drop_column('usage_record', 'given_back_mt')
    for table in reversed(TABLES):
        op.drop_table(table)


def _slot(moment: str, sqlite: bool) -> str:
    # SQLite rounds to milliseconds, which would carry the last half of one over into the next slot.
    seconds = (
        f"CAST(strftime('%s', substr({moment}, 1, 19)) AS INTEGER)"
        if sqlite
        else f'floor(extract(epoch FROM {moment}))::bigint'
    )
    return f'{seconds} / 900'


def _lower_bound() -> str:
    """The four leading binary digits of a time in ms, as `core.usage.latency` has them."""
    ms = '(r.wait_ms + r.model_ms)'
    cases = ' '.join(f'WHEN {ms} < {16 << shift} THEN {ms} / {1 << shift} * {1 << shift}' for shift in range(1, 27))
    return f'CASE WHEN {ms} < 16 THEN {ms} {cases} ELSE {ms} / {1 << 27} * {1 << 27} END'
