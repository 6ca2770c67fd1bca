"""Batch discounts: tiers in the price book, list price and percent on quotes, discount and entry on receipts.

Old price books have no discounts, old quotes cost their list price, and old receipts find the entry that took
their amount.
"""

from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE price_book ADD COLUMN batch_discounts JSON NOT NULL DEFAULT '[]'")

    op.execute("ALTER TABLE quote ADD COLUMN list_mt BIGINT NOT NULL DEFAULT 0")
    op.execute("UPDATE quote SET list_mt = total_mt")
    # SQLite adds a CHECK only with a column, and tests the rows that are there: hence on the column after the update.
    op.execute(
        "ALTER TABLE quote ADD COLUMN discount_percent VARCHAR(40) NOT NULL DEFAULT '0' "
        "CONSTRAINT quote_list_covers_total CHECK (list_mt >= total_mt)"
    )

    op.execute("ALTER TABLE receipt ADD COLUMN discount_percent VARCHAR(40) NOT NULL DEFAULT '0'")
    op.execute(
        "ALTER TABLE receipt ADD COLUMN floor_mt BIGINT NOT NULL DEFAULT 0 "
        "CONSTRAINT receipt_floor_not_negative CHECK (floor_mt >= 0)"
    )
    op.execute(
        "ALTER TABLE receipt ADD COLUMN batch_images INTEGER NOT NULL DEFAULT 1 "
        "CONSTRAINT receipt_batch_has_images CHECK (batch_images >= 1)"
    )
    op.execute("ALTER TABLE receipt ADD COLUMN entry_seq BIGINT")
    op.execute(
        "UPDATE receipt SET entry_seq = "
        "(SELECT seq FROM entry WHERE entry.hold_id = receipt.hold_id AND entry.kind = 'capture')"
    )


def downgrade() -> None:
    for column in ("entry_seq", "batch_images", "floor_mt", "discount_percent"):
        op.execute(f"ALTER TABLE receipt DROP COLUMN {column}")
    # First the column that carries the CHECK: SQLite drops no column that another one's CHECK names.
    for column in ("discount_percent", "list_mt"):
        op.execute(f"ALTER TABLE quote DROP COLUMN {column}")
    op.execute("ALTER TABLE price_book DROP COLUMN batch_discounts")
