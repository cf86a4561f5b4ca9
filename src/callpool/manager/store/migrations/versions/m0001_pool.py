"""The pool: orders, tenants, devices, units, holdings, and law 1 as constraints.

Revision ID: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from callpool.manager.store import dialect

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# Law 1: what orders and tenant shares count as held is moved by these triggers alone, so that
# the CHECK constraints refuse a violation whatever the code does. A holding that is not in
# force yet (since > 0) counts at its order, and at its tenant once it is in force.
TRIGGERS = (
    (
        "holding_added",
        "AFTER INSERT ON holding",
        """
        UPDATE order_line SET held = held + NEW.held
          WHERE order_id = NEW.order_id AND type = NEW.type;
        UPDATE tenant_share SET held = held + NEW.held
          WHERE tenant_id = NEW.tenant_id AND type = NEW.type AND NEW.since = 0;
        """,
    ),
    (
        "holding_changed",
        "AFTER UPDATE ON holding",
        """
        UPDATE order_line SET held = held - OLD.held
          WHERE order_id = OLD.order_id AND type = OLD.type;
        UPDATE tenant_share SET held = held - OLD.held
          WHERE tenant_id = OLD.tenant_id AND type = OLD.type AND OLD.since = 0;
        UPDATE order_line SET held = held + NEW.held
          WHERE order_id = NEW.order_id AND type = NEW.type;
        UPDATE tenant_share SET held = held + NEW.held
          WHERE tenant_id = NEW.tenant_id AND type = NEW.type AND NEW.since = 0;
        """,
    ),
    (
        "holding_removed",
        "AFTER DELETE ON holding",
        """
        UPDATE order_line SET held = held - OLD.held
          WHERE order_id = OLD.order_id AND type = OLD.type;
        UPDATE tenant_share SET held = held - OLD.held
          WHERE tenant_id = OLD.tenant_id AND type = OLD.type AND OLD.since = 0;
        """,
    ),
)


def upgrade() -> None:
    if op.get_bind().dialect.name == dialect.POSTGRESQL:
        for function in dialect.FUNCTIONS:
            op.execute(function)
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "purchase_order",
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("starts", sa.Float, nullable=False),
        sa.Column("ends", sa.Float, nullable=False),
        sa.Column("issued_at", sa.Float, nullable=False),
        sa.Column("imported_at", sa.Float, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
    )
    op.create_table(
        "order_line",
        sa.Column("order_id", sa.Text, sa.ForeignKey("purchase_order.order_id"), primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("held", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("0 <= held AND held <= count", name="order_never_oversold"),
    )
    op.create_table(
        "tenant",
        sa.Column("tenant_id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "tenant_share",
        sa.Column("tenant_id", sa.Integer, sa.ForeignKey("tenant.tenant_id"), primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("share", sa.Integer),
        sa.Column("held", sa.Integer, nullable=False, server_default="0"),
        sa.CheckConstraint("share IS NULL OR held <= share", name="tenant_never_oversold"),
        sa.CheckConstraint("0 <= held AND (share IS NULL OR 0 <= share)", name="share_counts"),
    )
    op.create_table(
        "device",
        sa.Column("device_id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("tenant_id", sa.Integer, sa.ForeignKey("tenant.tenant_id"), nullable=False),
        sa.Column("apply", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("added_at", sa.Float, nullable=False),
        sa.Column("removed_at", sa.Float),
        sa.CheckConstraint("apply IN ('restart', 'live')", name="device_apply"),
        sa.CheckConstraint("mode IN ('fixed', 'none')", name="device_mode"),
    )
    op.create_index(
        "device_name_in_use",
        "device",
        ["name"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "unit",
        sa.Column("serial", sa.Text, primary_key=True),
        sa.Column("device_id", sa.Integer, sa.ForeignKey("device.device_id"), nullable=False),
        sa.Column("role", sa.Integer, nullable=False),
        # active, removed, replaced: a row stays for as long as it may hold anything
        sa.Column("state", sa.Text, nullable=False, server_default="active"),
        sa.Column("public_key", sa.Text),
        sa.Column("kid", sa.Text, unique=True),
        sa.Column("certificate", sa.Text),
        sa.Column("enrolled_at", sa.Float),
        sa.Column("enrol_token", sa.Text),
        sa.Column("released", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("contact_current", sa.Text),
        sa.Column("contact_previous", sa.Text),
        sa.Column("previous_used", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("last_request", sa.Text),
        sa.Column("last_reply", sa.Text),
        sa.Column("last_contact", sa.Float),
        sa.Column("lease_end", sa.Float),
        sa.Column("lease_elapsed", sa.Float),
        # whether any grant sent may still be in force
        sa.Column("leased", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("grant_version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("grant_content", sa.Text, nullable=False, server_default="[]"),
        sa.Column("sent_version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("floor_version", sa.Integer, nullable=False, server_default="0"),
        sa.Column("report", sa.Text),
        sa.Column("locked", sa.Text),
        sa.Column("keys_sent", sa.Integer, nullable=False, server_default="0"),
        sa.Column("keys_known", sa.Integer, nullable=False, server_default="0"),
        sa.Column("hint_seq", sa.Integer, nullable=False, server_default="0"),
        sa.Column("hint_seen", sa.Integer, nullable=False, server_default="0"),
        sa.Column("restart_number", sa.Integer, nullable=False, server_default="0"),
        sa.Column("restart_save", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index("unit_device", "unit", ["device_id"])
    op.create_index("unit_hint", "unit", ["hint_seq"])
    op.create_table(
        "allocation",
        sa.Column("device_id", sa.Integer, sa.ForeignKey("device.device_id"), primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("target", sa.Integer, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.CheckConstraint("target >= 0", name="allocation_target"),
    )
    op.create_table(
        "holding",
        sa.Column("serial", sa.Text, sa.ForeignKey("unit.serial"), primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("since", sa.Float, primary_key=True, server_default="0"),
        sa.Column("tenant_id", sa.Integer, nullable=False),
        sa.Column("granted", sa.Integer, nullable=False),
        sa.Column("held", sa.Integer, nullable=False),
        sa.CheckConstraint("0 <= granted AND granted <= held", name="held_covers_granted"),
        sa.ForeignKeyConstraint(
            ["order_id", "type"], ["order_line.order_id", "order_line.type"], name="holding_line"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "type"],
            ["tenant_share.tenant_id", "tenant_share.type"],
            name="holding_share",
        ),
    )
    op.create_index("unit_lease", "unit", ["leased", "lease_end"])
    op.create_index(
        "holding_later",
        "holding",
        ["since"],
        sqlite_where=sa.text("since > 0"),
        postgresql_where=sa.text("since > 0"),
    )
    op.create_index("holding_line", "holding", ["order_id", "type"])
    op.create_table(
        "grant_journal",
        sa.Column("serial", sa.Text, sa.ForeignKey("unit.serial"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("slices", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "registration_token",
        sa.Column("token_id", sa.Integer, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("serial", sa.Text),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.CheckConstraint("uses_left >= 0", name="token_uses"),
    )
    op.create_table(
        "operator",
        sa.Column("username", sa.Text, primary_key=True),
        sa.Column("password", sa.Text, nullable=False),
    )
    op.create_table(
        "session",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("username", sa.Text, sa.ForeignKey("operator.username"), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )
    op.create_table(
        "journal",
        sa.Column("entry", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    for name, when, body in TRIGGERS:
        dialect.trigger(op.get_bind(), name, when, body)


def downgrade() -> None:
    for table in [
        "journal",
        "session",
        "operator",
        "registration_token",
        "grant_journal",
        "holding",
        "allocation",
        "unit",
        "device",
        "tenant_share",
        "tenant",
        "order_line",
        "purchase_order",
        "meta",
    ]:
        op.drop_table(table)
