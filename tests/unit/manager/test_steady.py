"""A steady contact, taken together with others, leaves what the long way by all rules leaves."""

from __future__ import annotations

import random

import msgspec
import pytest
from poolmodel import DAY, Model, ModelDevice

from callpool.manager import inventory, steady
from callpool.wire.messages import (
    AlarmMessage,
    AlarmsMessage,
    ContactRequest,
    UsageCount,
    UsageMinute,
)

TYPES = ("sbc_sessions", "far_end_users")


def usage(chance: random.Random, now: float) -> tuple[UsageMinute, ...]:
    """Return some minutes up to now, in a few hours; one may have been told before."""
    begin = int(now) // 60 - chance.choice((5, 5, 5, 70))
    return tuple(
        UsageMinute(
            at=(begin + n) * 60,
            types={
                kind: UsageCount(chance.randint(0, 9), 1.5, 10, chance.randint(0, 2), 0, 3)
                for kind in chance.sample(TYPES, chance.randint(1, 2))
            },
        )
        for n in range(chance.randint(0, 5))
    )


@pytest.mark.parametrize("seed", range(6))
def test_both_ways_write_and_answer_the_same(seed: int) -> None:
    chance = random.Random(seed)
    model = Model()
    model.compares = True
    now = model.clock.wall
    model.order(starts=now - DAY, ends=now + 30 * DAY, sbc_sessions=60, far_end_users=60)
    model.order(starts=now - DAY, ends=now + 8 * DAY, sbc_sessions=40)
    model.tenant("north", sbc_sessions=40)
    model.add("edge", "SN-1", apply="restart")
    model.add("core", "SN-2", tenant="north")
    model.add("twin", "SN-3", "SN-4")
    asked = 0
    for _ in range(60):
        what, device = chance.randint(0, 11), chance.choice([*model.devices.values()])
        model.clock.advance(chance.choice((60.0, 300.0, 300.0, 4000.0)))
        if what == 0:
            name = chance.choice(("edge", "core", "twin"))
            model.allocate(name, **{chance.choice(TYPES): chance.randint(0, 12)})
        elif what == 1:
            device.in_use = {"sbc_sessions": chance.randint(0, 3)}
        elif what == 2:
            model.change(lambda c: inventory.set_shares(c, "north", {"sbc_sessions": 30}))
        else:
            asked += 1
            _speak(model, device, chance)
    model.close()
    assert 5 < model.steady < asked


def _speak(model: Model, device: ModelDevice, chance: random.Random) -> None:
    log = None
    if chance.random() < 0.5:
        event = AlarmMessage(
            sequence=1,
            at=model.clock.wall,
            oid="1.3.6.1.4.1.1",
            severity=0,
            codes=("up",),
            text="Up.",
        )
        log = AlarmsMessage(log="log", sequence=1, events=(event,) * chance.randint(0, 1))
    model.deliver(device)
    model.ask(device, usage=usage(chance, model.clock.wall), alarm_log=log)
    if chance.random() < 0.9:
        model.deliver(device)


def test_of_two_words_of_one_unit_in_a_batch_one_is_taken() -> None:
    model = Model()
    now = model.clock.wall
    model.order(starts=now - DAY, ends=now + 30 * DAY, sbc_sessions=60)
    model.add("edge", "SN-1")
    model.allocate("edge", sbc_sessions=5)
    device = model.devices["SN-1"]
    for _ in range(2):
        model.call(device)
        model.deliver(device)
    model.call(device)
    asked = device.asked
    model.deliver(device)
    taken: list[str] = []

    def work(request: ContactRequest) -> None:
        both = [steady.Asked(request, device.kid)] * 2
        taken.extend(
            model.manager.contacts(
                lambda c: steady.take(c, both, model.manager.identity, model.manager.settings)
            )
        )

    assert asked is not None
    work(msgspec.structs.replace(asked, contact=device.value, nonce="a\0b"))
    assert taken == ["", ""]  # what PostgreSQL cannot keep would spoil the whole batch
    taken.clear()
    work(msgspec.structs.replace(asked, contact=device.value, nonce="new"))
    assert [bool(reply) for reply in taken] == [True, False]
    model.close()


def test_a_key_that_is_no_longer_the_units_is_left_to_the_long_way() -> None:
    model = Model()
    now = model.clock.wall
    model.order(starts=now - DAY, ends=now + 30 * DAY, sbc_sessions=60)
    model.add("edge", "SN-1")
    model.allocate("edge", sbc_sessions=5)
    device = model.devices["SN-1"]
    for _ in range(3):
        model.call(device)
        model.deliver(device)
    steady_before = model.steady
    device.kid = "another"
    given = model.call(device)
    assert given.refusal is not None
    assert given.refusal.code == "unknown_signer"
    assert model.steady == steady_before
    model.close()
