from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import inventory, views, windows
from callpool.manager.windows import Window
from callpool.wire.messages import ContactReply

HOUR = 3600.0
#: The first midnight, UTC, after the model's start.
MIDNIGHT = START - START % DAY + DAY


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.add("a", "A1", apply="restart")
    made.add("pair", "P1", "P2", apply="restart")
    at(made, MIDNIGHT + 12 * HOUR)
    for serial in ("A1", "P1", "P2"):
        made.poll(serial)
    yield made
    made.close()


def at(model: Model, wall: float) -> None:
    """Let the time become `wall`, and the manager look at it."""
    model.clock.advance(wall - model.clock.wall)
    model.manager.sweep()


def ask(model: Model, name: str = "a", window: str = "22:00-02:00", *, save: bool = True) -> None:
    model.change(
        lambda c: windows.ask(
            c, inventory.device_by_name(c, name), windows.parse(window), save=save
        )
    )


def cancel(model: Model, name: str = "a") -> list[str]:
    return model.change(lambda c: windows.cancel(c, inventory.device_by_name(c, name)))


def poll(model: Model, serial: str = "A1", *, done: int = 0) -> ContactReply:
    """Contact the manager, having carried out restart `done`."""
    device = model.devices[serial]
    device.restart_done = done
    model.ask(device)
    reply = model.deliver(device)
    assert reply is not None
    return reply


def hints(model: Model, serial: str = "A1") -> int:
    return int(
        model.manager.database.read(
            lambda tx: tx.value("SELECT hint_seq FROM unit WHERE serial = :s", s=serial)
        )
    )


def shown(model: Model, name: str = "a") -> dict[str, object] | None:
    pool = model.manager.database.read(lambda tx: views.pool(tx, model.clock.wall))
    found: dict[str, object] | None = next(
        d["restart_window"] for d in pool["devices"] if d["name"] == name
    )
    return found


def test_the_order_goes_out_when_the_window_opens_and_not_before(model: Model) -> None:
    ask(model)
    reply = poll(model)
    assert reply.restart is None
    # A device without a stream of hints calls when the window has opened.
    assert reply.poll_seconds == 10 * HOUR + 1
    before = hints(model)
    at(model, MIDNIGHT + 22 * HOUR - 1)
    assert hints(model) == before
    at(model, MIDNIGHT + 22 * HOUR)
    assert hints(model) > before
    order = poll(model).restart
    assert order is not None
    assert (order.save, order.until) == (True, MIDNIGHT + 26 * HOUR)
    assert poll(model, done=order.number).restart is None
    assert shown(model) is None


def test_after_midnight_the_window_is_still_open(model: Model) -> None:
    ask(model)
    at(model, MIDNIGHT + DAY + HOUR)
    state = shown(model)
    assert state is not None
    assert (state["open"], state["opens"]) == (True, MIDNIGHT + 22 * HOUR)
    order = poll(model).restart
    assert order is not None
    assert order.until == MIDNIGHT + DAY + 2 * HOUR


def test_a_device_that_is_away_gets_it_at_its_first_contact_inside_a_window(model: Model) -> None:
    ask(model, save=False)
    at(model, MIDNIGHT + 22 * HOUR)  # opens, and nobody calls
    at(model, MIDNIGHT + DAY + 3 * HOUR)
    assert poll(model).restart is None
    at(model, MIDNIGHT + 4 * DAY + 9 * HOUR)
    assert poll(model).restart is None
    at(model, MIDNIGHT + 4 * DAY + 23 * HOUR)
    order = poll(model).restart
    assert order is not None
    assert not order.save


def test_an_order_that_was_lost_waits_for_the_next_window(model: Model) -> None:
    ask(model)
    at(model, MIDNIGHT + 23 * HOUR)
    device = model.devices["A1"]
    model.ask(device)
    assert device.answered is not None
    number = device.answered.restart.number if device.answered.restart else 0
    assert number
    model.lose(device)
    at(model, MIDNIGHT + DAY + 5 * HOUR)
    assert poll(model).restart is None
    at(model, MIDNIGHT + DAY + 22 * HOUR)
    order = poll(model).restart
    assert order is not None
    assert order.number == number  # the same order, carried out once


def test_both_units_of_a_pair_have_to_restart(model: Model) -> None:
    ask(model, "pair", "12:00-13:00")  # open already: now
    first = poll(model, "P1").restart
    assert first is not None
    poll(model, "P1", done=first.number)
    state = shown(model, "pair")
    assert state is not None
    assert state["waits_for"] == ["P2"]
    second = poll(model, "P2").restart
    assert second is not None
    poll(model, "P2", done=second.number)
    assert shown(model, "pair") is None


def test_a_cancelled_restart_is_never_given(model: Model) -> None:
    ask(model)
    assert cancel(model) == []
    at(model, MIDNIGHT + 22 * HOUR)
    assert poll(model).restart is None
    assert shown(model) is None
    with pytest.raises(LicenseError) as error:
        cancel(model)
    assert error.value.code == "no_restart_waits"


def test_one_that_was_given_and_then_cancelled_is_not_given_again(model: Model) -> None:
    ask(model)
    at(model, MIDNIGHT + 22 * HOUR)
    order = poll(model).restart
    assert order is not None
    assert cancel(model) == ["A1"]
    assert poll(model).restart is None
    at(model, MIDNIGHT + DAY + 22 * HOUR)
    assert poll(model).restart is None
    # A later wish has a number of its own.
    model.change(lambda c: windows.restart_now(c, "a", save=True))
    later = poll(model).restart
    assert later is not None
    assert later.number > order.number
    assert later.until == 0.0


def test_a_restart_now_takes_the_place_of_one_that_waits(model: Model) -> None:
    ask(model)
    model.change(lambda c: windows.restart_now(c, "a", save=False))
    order = poll(model).restart
    assert order is not None
    assert not order.save
    assert poll(model, done=order.number).restart is None
    at(model, MIDNIGHT + 22 * HOUR)
    assert poll(model, done=order.number).restart is None


def test_a_device_that_has_done_more_than_the_database_knows_still_restarts(model: Model) -> None:
    """The manager was restored from a backup: the device's last number is the higher one."""
    ask(model, window="12:00-13:00")
    order = poll(model, done=5).restart
    assert order is not None
    assert order.number == 6
    assert poll(model, done=6).restart is None
    assert poll(model, done=9).restart is None
    model.change(lambda c: windows.restart_now(c, "a", save=True))
    later = poll(model, done=9).restart
    assert later is not None
    assert later.number == 10


def test_a_removed_device_keeps_no_wish(model: Model) -> None:
    ask(model)
    model.change(lambda c: inventory.remove_device(c, "a"))
    at(model, MIDNIGHT + 22 * HOUR)
    kept = model.manager.database.read(
        lambda tx: tx.rows("SELECT name FROM meta WHERE name LIKE 'restart%'")
    )
    assert kept == []


def test_a_clock_set_back_still_opens_the_window(model: Model) -> None:
    ask(model)
    before = hints(model)
    model.clock.wall -= 10 * DAY
    model.manager.sweep()
    at(model, MIDNIGHT - 10 * DAY + 22 * HOUR)
    assert hints(model) > before
    assert poll(model).restart is not None


@pytest.mark.parametrize(
    "text", ["", "22-2", "24:00-01:00", "02:60-03:00", "02:00-02:00", "2:00-3:00", "02:00-03:00 "]
)
def test_a_bad_window_is_refused(text: str) -> None:
    with pytest.raises(LicenseError) as error:
        windows.parse(text)
    assert error.value.code == "bad_window"


_MINUTE = st.integers(0, 1439).map(lambda m: 60 * m)


@given(begins=_MINUTE, ends=_MINUTE, now=st.integers(1_700_000_000, 1_900_000_000).map(float))
def test_a_window_opens_once_a_day_for_its_length(begins: int, ends: int, now: float) -> None:
    window = Window(begins, ends)
    length = (ends - begins) % DAY
    inside = (now % DAY - begins) % DAY < length
    assert window.is_open(now) == inside
    assert now < window.opens(now) <= now + DAY
    assert window.opens(now) % DAY == begins
    if inside:
        assert now < window.closes(now) <= now + length
        assert window.closes(now) % DAY == ends
