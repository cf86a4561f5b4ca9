"""Roles, tenants of operators, browser sessions, API tokens, and a journal chained by hash.

Revision ID: 0008
Revises: 0007
"""

import hashlib
import json
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_RARE = (
    ("unit_locked", "unit", ["device_id"], "locked IS NOT NULL"),
    ("unit_released", "unit", ["device_id"], "released"),
    ("unit_without_key", "unit", ["device_id"], "public_key IS NULL"),
    ("holding_giving_back", "holding", ["type", "tenant_id"], "held > granted"),
)


def upgrade() -> None:
    # Whoever could sign in before could do everything.
    op.add_column(
        "operator",
        sa.Column("role", sa.Text, nullable=False, server_default="administrator"),
    )
    op.add_column(
        "operator", sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("operator", sa.Column("made_at", sa.Float, nullable=False, server_default="0"))
    op.add_column(
        "operator", sa.Column("password_at", sa.Float, nullable=False, server_default="0")
    )
    op.add_column("operator", sa.Column("last_sign_in", sa.Float))
    op.create_table(
        "operator_tenant",
        sa.Column("username", sa.Text, sa.ForeignKey("operator.username"), primary_key=True),
        sa.Column("tenant_id", sa.Integer, sa.ForeignKey("tenant.tenant_id"), primary_key=True),
    )
    # The sessions of before do not say how long they may be idle: they end.
    op.drop_table("session")
    op.create_table(
        "session",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("username", sa.Text, sa.ForeignKey("operator.username"), nullable=False),
        # browser (a cookie) or bearer
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )
    op.create_index("session_operator", "session", ["username"])
    op.create_table(
        "api_token",
        sa.Column("token_id", sa.Integer, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        sa.Column("username", sa.Text, sa.ForeignKey("operator.username"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        # names of scopes, separated by spaces
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("last_used", sa.Float),
        sa.Column("revoked", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_index("api_token_operator", "api_token", ["username"])
    # A registration token of a tenant enrols that tenant's serial numbers only.
    op.add_column("registration_token", sa.Column("tenant_id", sa.Integer))
    op.create_table(
        "idempotency",
        sa.Column("username", sa.Text, primary_key=True),
        sa.Column("key_hash", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        # encrypted by a key that only the idempotency key yields
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
    )
    op.create_index("idempotency_age", "idempotency", ["made_at"])
    # Lists of many devices: by tenant and name, and found by a part of a serial number.
    op.create_index(
        "device_tenant",
        "device",
        ["tenant_id", "name"],
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index("device_added", "device", ["added_at", "name"])
    # What is rare among many: units that need attention, shares that are being taken back.
    for name, table, columns, where in _RARE:
        op.create_index(
            name,
            table,
            columns,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_index("unit_search", "unit", ["serial", "device_id", "state"])
    _chain_the_journal()


def _chain_the_journal() -> None:
    for column in (
        sa.Column("role", sa.Text, nullable=False, server_default=""),
        sa.Column("via", sa.Text, nullable=False, server_default=""),
        sa.Column("outcome", sa.Text, nullable=False, server_default="done"),
        # whose tenant's affair it is
        sa.Column("tenant_id", sa.Integer),
        # whether it was asked for from outside that tenant: who it was is not the tenant's affair
        sa.Column("elsewhere", sa.Boolean, nullable=False, server_default=sa.false()),
        # SHA-256 over the hash of the line before and this line
        sa.Column("hash", sa.Text, nullable=False, server_default=""),
    ):
        op.add_column("journal", column)
    connection, before = op.get_bind(), ""
    # The form of `audit.line_hash` as it was when this migration was written.
    for r in connection.execute(sa.text("SELECT * FROM journal ORDER BY entry")).mappings().all():
        line = [
            r["entry"], float(r["at"]), r["who"], "", "", r["source"], r["cause"], r["detail"],
            "done", None, False,
        ]  # fmt: skip
        raw = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        before = hashlib.sha256(f"{before}\n{raw}".encode()).hexdigest()
        connection.execute(
            sa.text("UPDATE journal SET hash = :hash WHERE entry = :entry"),
            {"hash": before, "entry": r["entry"]},
        )
    op.create_index("journal_tenant", "journal", ["tenant_id", "entry"])
    op.create_index("journal_who", "journal", ["who", "entry"])
    op.create_index("journal_cause", "journal", ["cause", "entry"])


def downgrade() -> None:
    for name in ("journal_cause", "journal_who", "journal_tenant"):
        op.drop_index(name)
    for name in ("hash", "elsewhere", "tenant_id", "outcome", "via", "role"):
        op.drop_column("journal", name)
    op.drop_index("unit_search")
    for name, *_ in _RARE:
        op.drop_index(name)
    op.drop_index("device_added")
    op.drop_index("device_tenant")
    op.drop_table("idempotency")
    op.drop_column("registration_token", "tenant_id")
    op.drop_table("api_token")
    op.drop_table("operator_tenant")
    for name in ("last_sign_in", "password_at", "made_at", "disabled", "role"):
        op.drop_column("operator", name)
    op.drop_table("session")
    op.create_table(
        "session",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("username", sa.Text, sa.ForeignKey("operator.username"), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )
