"""Classes of whole pictures: a receipt says whether the model saw a square of the image."""

from alembic import op
from sqlalchemy import text

revision = '0022'
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute('ALTER TABLE receipt ADD COLUMN square BOOLEAN NOT NULL DEFAULT false')


def downgrade() -> None:
    count = op.get_bind().execute(text('SELECT count(*) FROM receipt WHERE square')).scalar_one()
    if count:
        # Without the column each would be computed as letterboxed, and disagree with what was charged for ever.
        raise RuntimeError(
            f"There are receipts for classes of whole pictures ({count}), and the older version cannot say so: nothing "
            "was changed. Keep this version, or restore a backup from before it."
        )
    op.drop_column('receipt', 'square')
