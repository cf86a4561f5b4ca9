"""The authority: accounts, tokens, instances, entitlements, authorizations, alerts, events.

Its tables share nothing with the pool's: a purchased unit is never in both.

Revision ID: 0002
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _unique_where(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(
        name,
        table,
        columns,
        unique=True,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )


def upgrade() -> None:
    op.create_table(
        "smart_account",
        sa.Column("account_id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("made_at", sa.Float, nullable=False),
    )
    op.create_table(
        "virtual_account",
        sa.Column("va_id", sa.Integer, primary_key=True),
        sa.Column(
            "account_id", sa.Integer, sa.ForeignKey("smart_account.account_id"), nullable=False
        ),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.UniqueConstraint("account_id", "name", name="virtual_account_once"),
    )
    op.create_table(
        "smart_token",
        sa.Column("token_id", sa.Integer, primary_key=True),
        sa.Column("va_id", sa.Integer, sa.ForeignKey("virtual_account.va_id"), nullable=False),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("export_allowed", sa.Boolean, nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.CheckConstraint("uses_left >= 0", name="smart_token_uses"),
    )
    op.create_table(
        "smart_order",
        sa.Column("order_id", sa.Text, primary_key=True),
        sa.Column("starts", sa.Float, nullable=False),
        sa.Column("ends", sa.Float, nullable=False),
        sa.Column("issued_at", sa.Float, nullable=False),
        sa.Column("imported_at", sa.Float, nullable=False),
        sa.Column("envelope", sa.Text, nullable=False),
    )
    # What a virtual account has of an order. Moving changes rows, never their sum.
    op.create_table(
        "entitlement",
        sa.Column("order_id", sa.Text, sa.ForeignKey("smart_order.order_id"), primary_key=True),
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("va_id", sa.Integer, sa.ForeignKey("virtual_account.va_id"), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.CheckConstraint("count >= 0", name="entitlement_count"),
    )
    op.create_table(
        "product_instance",
        sa.Column("instance_id", sa.Text, primary_key=True),
        sa.Column("va_id", sa.Integer, sa.ForeignKey("virtual_account.va_id"), nullable=False),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("software", sa.Text, nullable=False),
        # registered; deregistered, removed, replaced, revoked, expired: the row stays, so that
        # whoever calls by its key is told why it is refused
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("token_id", sa.Integer, sa.ForeignKey("smart_token.token_id"), nullable=False),
        sa.Column("export_allowed", sa.Boolean, nullable=False),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.Column("certificate_from", sa.Float, nullable=False),
        sa.Column("certificate_renew", sa.Float, nullable=False),
        sa.Column("certificate_until", sa.Float, nullable=False),
        sa.Column("registered_at", sa.Float, nullable=False),
        sa.Column("left_at", sa.Float),
        sa.Column("agent_state", sa.Text, nullable=False, server_default=""),
        sa.Column("maximum", sa.Integer),
        sa.Column("contact_current", sa.Text, nullable=False),
        sa.Column("contact_previous", sa.Text),
        sa.Column("last_request", sa.Text, nullable=False),
        sa.Column("last_reply", sa.Text, nullable=False),
        # by the authority's clock, and what the device's own said
        sa.Column("last_contact", sa.Float, nullable=False),
        sa.Column("last_time", sa.Float, nullable=False),
        # nothing heard for 90 days: its counts are free until it calls again
        sa.Column("silent", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("locked", sa.Text),
        sa.Column("keys_sent", sa.Integer, nullable=False),
        sa.Column("keys_known", sa.Integer, nullable=False),
        sa.Column("hint_seq", sa.Integer, nullable=False, server_default="0"),
        sa.Column("hint_seen", sa.Integer, nullable=False, server_default="0"),
    )
    _unique_where("instance_serial", "product_instance", ["serial"], "state = 'registered'")
    _unique_where("instance_key", "product_instance", ["kid"], "state = 'registered'")
    op.create_index("instance_kid", "product_instance", ["kid"])
    op.create_index("instance_hint", "product_instance", ["hint_seq"])
    op.create_index("instance_account", "product_instance", ["va_id", "state"])
    # The latest authorization that each instance was sent, per entitlement.
    op.create_table(
        "smart_authorization",
        sa.Column(
            "instance_id",
            sa.Text,
            sa.ForeignKey("product_instance.instance_id"),
            primary_key=True,
        ),
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("issued_at", sa.Float, nullable=False),
        sa.Column("renew_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.CheckConstraint("count >= 0", name="authorization_count"),
    )
    op.create_table(
        "smart_compliance",
        sa.Column("va_id", sa.Integer, sa.ForeignKey("virtual_account.va_id"), primary_key=True),
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("purchased", sa.Integer, nullable=False),
        sa.Column("in_use", sa.Integer, nullable=False),
        # since when it is out of compliance, 0 where it is not
        sa.Column("out_since", sa.Float, nullable=False),
    )
    op.create_table(
        "smart_alert",
        sa.Column("alert_id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        # what it is about: one open alert each
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("va_id", sa.Integer, sa.ForeignKey("virtual_account.va_id"), nullable=False),
        sa.Column("instance_id", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("action_due", sa.Float),
        sa.Column("raised_at", sa.Float, nullable=False),
        sa.Column("cleared_at", sa.Float),
    )
    _unique_where("alert_open", "smart_alert", ["kind", "about"], "cleared_at IS NULL")
    op.create_table(
        "smart_event",
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("account_id", sa.Integer, sa.ForeignKey("smart_account.account_id")),
        sa.Column("va_id", sa.Integer, sa.ForeignKey("virtual_account.va_id")),
        sa.Column("instance_id", sa.Text),
        sa.Column("tag", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
    )
    op.execute(
        "CREATE VIEW virtual_account_name AS SELECT v.va_id, a.name AS account,"
        " v.name AS virtual_account FROM virtual_account v"
        " JOIN smart_account a ON a.account_id = v.account_id"
    )


def downgrade() -> None:
    op.execute("DROP VIEW virtual_account_name")
    for table in [
        "smart_event",
        "smart_alert",
        "smart_compliance",
        "smart_authorization",
        "product_instance",
        "entitlement",
        "smart_order",
        "smart_token",
        "virtual_account",
        "smart_account",
    ]:
        op.drop_table(table)
