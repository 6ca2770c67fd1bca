"""Tiles: their size in quotes, runs, results and receipts; how many ran, how many failed, what was given back for them."""

from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

TILED = ('quote', 'job', 'result', 'receipt')
# SQLite drops no column that a check of its own names: each check is its column's.
COUNTS = (
    ('receipt', 'tiles INTEGER NOT NULL DEFAULT 0 CONSTRAINT receipt_tiles CHECK (tiles >= 0)'),
    (
        'receipt',
        'tiles_failed INTEGER NOT NULL DEFAULT 0 CONSTRAINT receipt_tiles_failed CHECK (tiles_failed >= 0 AND tiles_failed <= tiles)',
    ),
    ('result', 'tiles_failed INTEGER NOT NULL DEFAULT 0'),
    (
        'job_image',
        'returned_mt BIGINT NOT NULL DEFAULT 0 CONSTRAINT job_image_returned_not_negative CHECK (returned_mt >= 0)',
    ),
    ('usage_record', 'tiles INTEGER NOT NULL DEFAULT 0'),
)


def upgrade() -> None:
    for table in TILED:
        op.execute(f'ALTER TABLE {table} ADD COLUMN tile_px INTEGER')
    for table, column in COUNTS:
        op.execute(f'ALTER TABLE {table} ADD COLUMN {column}')


def downgrade() -> None:
    for table, column in reversed(COUNTS):
        op.execute(f'ALTER TABLE {table} DROP COLUMN {column.split()[0]}')
    for table in reversed(TILED):
        op.execute(f'ALTER TABLE {table} DROP COLUMN tile_px')
