"""The audit log: whatever is done to its lines behind the manager's back is found."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest
from poolmodel import START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import audit_verify
from callpool.manager.audit import line_hash
from callpool.manager.audit_heads import Head, read_head
from callpool.manager.audit_verify import verify
from callpool.wire.envelope import AUDIT_HEAD, sign


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - 10, ends=START + 1e6, sbc_sessions=100)
    for name in ("a", "b", "c"):
        made.add(name, f"SN-{name}")
    made.manager.heads.keep(made.manager)
    yield made
    made.close()


def tamper(model: Model, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(model.manager.database.file)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def cut_off(model: Model, above: int) -> None:
    """Cut off the end of the log."""
    with contextlib.closing(sqlite3.connect(model.manager.database.file)) as database:
        assert database.execute("DELETE FROM journal WHERE entry > ?", (above,)).rowcount > 0
        database.commit()


def last(model: Model) -> int:
    return int(model.manager.database.read(lambda tx: tx.value("SELECT max(entry) FROM journal")))


def found(model: Model, *heads: str) -> list[tuple[str, int]]:
    verdict = verify(model.manager, heads)
    assert verdict.whole == (not verdict.findings)
    return [(f.kind, f.entry) for f in verdict.findings]


def rehash(model: Model, start: int) -> None:
    """Do what a forger with the database in hand does: make the chain fit again."""
    with contextlib.closing(sqlite3.connect(model.manager.database.file)) as database:
        database.row_factory = sqlite3.Row
        query = "SELECT hash FROM journal WHERE entry < ? ORDER BY entry DESC LIMIT 1"
        row = database.execute(query, (start,)).fetchone()
        before = row["hash"] if row else ""
        for line in database.execute(
            "SELECT * FROM journal WHERE entry >= ? ORDER BY entry", (start,)
        ).fetchall():
            before = line_hash(before, dict(line))
            database.execute("UPDATE journal SET hash = ? WHERE entry = ?", (before, line["entry"]))
        database.commit()


def test_a_log_that_nobody_touched_is_whole(model: Model) -> None:
    verdict = verify(model.manager)
    assert verdict.whole
    assert verdict.lines == verdict.last == last(model)
    assert verdict.head is not None
    assert (verdict.head.number, verdict.after_head) == (verdict.last, 0)


@pytest.mark.parametrize(
    "column", ["at", "who", "role", "via", "source", "cause", "detail", "outcome", "tenant_id"]
)
def test_an_altered_line_is_found_whatever_of_it_was_altered(model: Model, column: str) -> None:
    value = "5" if column in ("at", "tenant_id") else "'other'"
    tamper(model, f"UPDATE journal SET {column} = {value} WHERE entry = 4")  # noqa: S608  named above
    assert found(model) == [("altered", 4)]


def test_a_line_that_was_altered_and_hashed_anew_shows_at_the_next(model: Model) -> None:
    tamper(model, "UPDATE journal SET who = 'nobody' WHERE entry = 4")
    rehash(model, 4)
    # The chain fits again, but not the signed head.
    assert found(model) == [("truncated", last(model))]


def test_a_missing_line_is_found_in_the_middle_and_at_the_beginning(model: Model) -> None:
    tamper(model, "DELETE FROM journal WHERE entry = 3")
    assert found(model) == [("missing", 4)]
    tamper(model, "DELETE FROM journal WHERE entry = 1")
    assert found(model) == [("missing", 2), ("missing", 4)]


def test_lines_that_changed_places_are_found(model: Model) -> None:
    tamper(
        model,
        "UPDATE journal SET entry = 999 WHERE entry = 3",
        "UPDATE journal SET entry = 3 WHERE entry = 4",
        "UPDATE journal SET entry = 4 WHERE entry = 999",
    )
    assert ("altered", 3) in found(model)
    assert ("altered", 4) in found(model)


def test_a_line_put_in_is_found(model: Model) -> None:
    tamper(
        model,
        "INSERT INTO journal (entry, at, who, source, cause, detail, hash)"
        " SELECT entry + 1, at, who, source, cause, detail, hash FROM journal"
        " ORDER BY entry DESC LIMIT 1",
    )
    assert found(model) == [("altered", last(model))]


def test_a_log_that_was_cut_off_at_its_end_is_found_by_its_signed_head(model: Model) -> None:
    end = last(model)
    cut_off(model, end - 2)
    assert found(model) == [("truncated", end)]


def test_what_is_cut_off_while_the_manager_runs_is_written_down_and_stays_told(
    model: Model,
) -> None:
    end = last(model)
    cut_off(model, end - 2)
    model.manager.heads.keep(model.manager)
    assert found(model) == [("lost", end - 1)]
    # A new process sees by the file what the old one knew by heart.
    model.reopen()
    assert found(model) == [("lost", end - 1)]
    with pytest.raises(LicenseError, match="tells of no lost lines"):
        model.change(lambda c: audit_verify.accept(c, 2, "a reason"))
    model.change(lambda c: audit_verify.accept(c, end - 1, "restored from a backup"))
    verdict = verify(model.manager)
    assert verdict.whole
    assert "restored from a backup" in verdict.accepted[0].sentence


def test_cut_off_while_the_manager_is_down_shows_at_its_next_start(model: Model) -> None:
    end = last(model)
    cut_off(model, end - 2)
    model.reopen()
    model.manager.heads.keep(model.manager)
    assert found(model) == [("lost", end - 1)]


def test_a_head_kept_elsewhere_finds_what_was_cut_off_together_with_the_file(model: Model) -> None:
    old = model.manager.heads.envelope()
    model.add("d", "SN-d")
    model.manager.clock.advance(10.0)  # type: ignore[attr-defined]
    model.manager.heads.keep(model.manager)
    elsewhere, end = model.manager.heads.envelope(), last(model)
    # The forger puts back an older head with the older log: on this machine nothing shows it.
    before = read_head(old, model.manager.identity).number
    cut_off(model, before)
    model.manager.heads.file.write_text(old)
    assert found(model) == []
    assert found(model, elsewhere) == [("truncated", end)]


def test_a_head_that_is_missing_altered_or_anothers_is_told(model: Model) -> None:
    file = model.manager.heads.file
    envelope = file.read_text()
    file.unlink()
    assert found(model) == [("head", 0)]
    file.write_text(envelope[:-8] + "AAAAAAA\n")
    assert found(model) == [("head", 0)]
    file.write_text("hello")
    assert found(model) == [("head", 0)]
    file.write_text(envelope)
    identity = model.manager.identity
    foreign = Head(number=1, hash="0" * 64, at=START, product_key="CP-OTHER")
    signed = sign(identity.signer(identity.key_book().serial, START), AUDIT_HEAD, foreign)
    assert found(model, signed) == [("head", 0)]
