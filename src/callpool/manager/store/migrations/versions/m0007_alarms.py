"""Alarms: what is active, their history, what is expected, and how far targets are told.

Revision ID: 0007
Revises: 0006
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _told() -> list[sa.Column[int] | sa.Column[str] | sa.Column[float]]:
    """Return what an alarm and an event of it have in common."""
    return [
        # the unit's serial number; empty for the manager itself
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("oid", sa.Text, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        # the gravest it has been since it was raised: what targets are filtered by
        sa.Column("worst", sa.Integer, nullable=False),
        sa.Column("codes", sa.Text, nullable=False),
        sa.Column("short", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("event_type", sa.Integer, nullable=False),
        sa.Column("cause", sa.Integer, nullable=False),
        sa.Column("info", sa.Text, nullable=False),
        # the sender's time and number
        sa.Column("told_at", sa.Float, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        # protocol, trap, walk or manager
        sa.Column("source", sa.Text, nullable=False),
        # why it was expected; empty where it was not
        sa.Column("expected", sa.Text, nullable=False, server_default=""),
    ]


def upgrade() -> None:
    op.create_table(
        "alarm",
        sa.Column("alarm_id", sa.Integer, primary_key=True),
        *_told(),
        sa.Column("device_id", sa.Integer, sa.ForeignKey("device.device_id")),
        sa.Column("raised_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        # all the ways it was heard by, such as "protocol trap"
        sa.Column("heard", sa.Text, nullable=False),
        sa.Column("expected_until", sa.Float, nullable=False, server_default="0"),
        sa.Column("acknowledged_at", sa.Float),
        sa.Column("acknowledged_by", sa.Text, nullable=False, server_default=""),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("serial", "about", "oid", name="alarm_once"),
        sa.CheckConstraint("severity BETWEEN 1 AND 5", name="alarm_severity"),
    )
    op.create_index("alarm_device", "alarm", ["device_id"])
    op.create_table(
        "alarm_event",
        sa.Column("event_id", sa.Integer, primary_key=True),
        *_told(),
        sa.Column("at", sa.Float, nullable=False),
        # raised, changed, cleared, event, late, unexpected, acknowledged
        sa.Column("transition", sa.Text, nullable=False),
        sa.Column("alarm_id", sa.Integer),
        # as they were then: a device that moves takes no history along
        sa.Column("device_id", sa.Integer, sa.ForeignKey("device.device_id")),
        sa.Column("tenant_id", sa.Integer, sa.ForeignKey("tenant.tenant_id")),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint("severity BETWEEN 0 AND 5", name="alarm_event_severity"),
    )
    op.create_index("alarm_event_number", "alarm_event", ["serial", "oid", "number"])
    op.create_index("alarm_event_last", "alarm_event", ["serial", "oid", "event_id"])
    op.create_index("alarm_event_unit", "alarm_event", ["serial", "event_id"])
    op.create_table(
        "alarm_expected",
        sa.Column("expected_id", sa.Integer, primary_key=True),
        sa.Column("device_id", sa.Integer, sa.ForeignKey("device.device_id"), nullable=False),
        sa.Column("oid", sa.Text, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.UniqueConstraint("device_id", "oid", name="alarm_expected_once"),
    )
    op.create_table(
        "alarm_target",
        sa.Column("name", sa.Text, primary_key=True),
        # the last event that it was told of, or that was not for it
        sa.Column("told", sa.Integer, nullable=False),
        sa.Column("failing_since", sa.Float),
        sa.Column("failure", sa.Text, nullable=False, server_default=""),
    )
    # How far a unit's alarm log was taken, and which log that was.
    op.add_column("unit", sa.Column("alarm_log", sa.Text, nullable=False, server_default=""))
    op.add_column(
        "unit", sa.Column("alarm_taken", sa.BigInteger, nullable=False, server_default="0")
    )


def downgrade() -> None:
    op.drop_column("unit", "alarm_taken")
    op.drop_column("unit", "alarm_log")
    for table in ("alarm_target", "alarm_expected", "alarm_event", "alarm"):
        op.drop_table(table)
