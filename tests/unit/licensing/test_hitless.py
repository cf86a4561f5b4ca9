"""The hitless installation: whatever comes, in whatever order, never both units are asked to
restart, and the run ends complete or safely stopped."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import pytest

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.hitless import (
    LATE,
    MOST_ORDERS,
    OPEN,
    STEPS,
    UNDER_WAY,
    Deadlines,
    Kind,
    Role,
    Run,
    State,
    Unit,
    advance,
    close,
    next_timer,
    resume,
    start,
    stop,
)
from callpool.licensing.hitless_key import KEY_STEPS, check_pair_key, not_hitless
from callpool.licensing.hitless_progress import progress
from callpool.licensing.key import LocalKey

TIMES = Deadlines()
A, B = "SN-A", "SN-B"
OTHER = {A: B, B: A}
NEW, OLD = 2, 1


@dataclass(frozen=True)
class Box:
    """One unit as it really is."""

    up: bool = True
    active: bool = False
    runs: int = OLD
    holds: int = NEW
    restart: int = 0
    switch: int = 0
    result: str = ""
    #: What it has been asked: a kind and its number.
    asked: tuple[Kind, int] | None = None


@dataclass(frozen=True)
class World:
    """Both units, what the manager last heard of each, and the run."""

    run: Run
    boxes: tuple[tuple[str, Box], ...]
    heard: tuple[tuple[str, Unit], ...]
    synchronised: bool = True
    crashes: int = 0
    goal: int = NEW
    now: float = 0.0

    def box(self, serial: str) -> Box:
        return dict(self.boxes)[serial]

    def put(self, serial: str, **what: object) -> World:
        boxes = dict(self.boxes)
        boxes[serial] = replace(boxes[serial], **what)  # type: ignore[arg-type]
        return replace(self, boxes=tuple(sorted(boxes.items())))

    def role(self, serial: str) -> Role:
        mine, other = self.box(serial), self.box(OTHER[serial])
        if not mine.active:
            return Role.REDUNDANT
        return Role.ACTIVE if other.up else Role.ALONE

    def seen(self, serial: str) -> Unit:
        box = self.box(serial)
        return Unit(
            serial=serial,
            peer=OTHER[serial],
            role=self.role(serial),
            synchronised=self.synchronised,
            wanted=1,
            received=int(box.holds == self.goal),
            running=int(box.runs == self.goal),
            restart_done=box.restart,
            switch_done=box.switch,
            switch_result=box.result,
            next_restart=box.restart + 1,
            next_switch=max(self.box(A).switch, self.box(B).switch) + 1,
        )

    def report(self, serial: str, *, reply: bool = True) -> World:
        """Let a unit call; with `reply` it hears what it is asked."""
        heard = {**dict(self.heard), serial: self.seen(serial)}
        world = replace(self, heard=tuple(sorted(heard.items())))
        run = advance(self.run, heard, self.now, TIMES, heard=serial)
        world.check_order(run)
        world = replace(world, run=stored(run))
        order = run.order
        if reply and order is not None and order.by == serial and not order.done(heard):
            world = world.put(serial, asked=(order.kind, order.number))
        return world

    def check_order(self, run: Run) -> None:
        """What a new order may be: only while the other unit serves, and one at a time."""
        if run.order is None or run.order == self.run.order:
            return
        heard = dict(self.heard)
        unit, other = heard[run.order.unit], heard[OTHER[run.order.unit]]
        assert unit.role is Role.REDUNDANT
        assert other.role is Role.ACTIVE
        assert unit.synchronised
        assert other.synchronised
        assert self.run.order is None
        assert run.late is None

    def act(self, serial: str) -> World:
        """Let a unit carry out what it is asked: a restart takes it down until `come_up`."""
        box = self.box(serial)
        assert box.asked is not None
        kind, number = box.asked
        world = self.put(serial, asked=None)
        if kind is Kind.INSTALL:
            if number <= box.restart:
                return world
            down = world.put(serial, restart=number, runs=box.holds)
            return down.go_down(serial)
        if number <= box.switch:
            return world
        if not box.active or not self.synchronised or not self.box(OTHER[serial]).up:
            return world.put(serial, switch=number, result="refused: not synchronised")
        # Written down before it is begun.
        return world.put(serial, switch=number, result=UNDER_WAY)

    def finish(self, serial: str) -> World:
        """Hand over as it was begun; a unit that does not serve any more has nothing to."""
        world = self.put(serial, result="done")
        if not self.box(serial).active:
            return world
        if not self.box(OTHER[serial]).up:
            return self.put(serial, result="failed: the other unit did not take the address")
        return world.put(serial, active=False).put(OTHER[serial], active=True)

    def go_down(self, serial: str) -> World:
        world = replace(self.put(serial, up=False, active=False), synchronised=False)
        if self.box(serial).active and self.box(OTHER[serial]).up:
            world = world.put(OTHER[serial], active=True)
        return world

    def come_up(self, serial: str) -> World:
        other = self.box(OTHER[serial])
        return self.put(serial, up=True, active=not (other.up and other.active))

    def moves(self) -> Iterator[World]:
        """Everything that can happen next."""
        for serial in (A, B):
            box = self.box(serial)
            if not box.up:
                yield self.come_up(serial)
                continue
            yield self.report(serial)
            yield self.report(serial, reply=False)
            if box.asked is not None:
                yield self.act(serial)
            if box.result == UNDER_WAY:
                yield self.finish(serial)
            if self.crashes < 1:
                yield replace(self.put(serial, asked=None), crashes=1).go_down(serial)
        if not self.synchronised and self.box(A).up and self.box(B).up:
            yield replace(self, synchronised=True)
        if self.run.state is State.RUNNING:
            yield self.late_by(TIMES.longest() + LATE + 1)

    def late_by(self, seconds: float) -> World:
        now = self.now + seconds
        run = advance(self.run, dict(self.heard), now, TIMES)
        self.check_order(run)
        return replace(self, run=stored(run), now=now)

    def fair(self) -> World:
        """Let everything that is down come up, and everybody call, until the run is over."""
        world = self
        for turn in range(60):
            if world.run.state is not State.RUNNING:
                return world
            if world.run.late is not None or turn == 30:
                # What was asked before the stop, or was undone by a failover, is over some day.
                world = world.late_by(TIMES.longest() + LATE + 1)
            for serial in (A, B):
                if not world.box(serial).up:
                    world = world.come_up(serial)
            world = replace(world, synchronised=True)
            for serial in (A, B):
                world = world.report(serial)
                if world.box(serial).asked is not None:
                    world = world.act(serial)
                if world.box(serial).result == UNDER_WAY:
                    world = world.finish(serial)
                if not world.box(serial).up:
                    world = world.come_up(serial)
        return world

    def resumed(self) -> World:
        return replace(self, run=resume(self.run, self.now, TIMES))

    def back(self) -> World:
        """Turn to the licenses of before: they are given again, and at once applied where they
        are still run."""
        world = replace(self, goal=OLD, run=resume(self.run, self.now, TIMES, back=True))
        for serial in (A, B):
            world = world.put(serial, holds=OLD)
        return world


def stored(run: Run) -> Run:
    """The manager is restarted after every single thing: only what is written down stays."""
    raw = msgspec.json.encode(run)
    return msgspec.json.decode(raw, type=Run)


def begun() -> World:
    boxes = {A: Box(active=True), B: Box()}
    world = World(run=start(A, B, 0.0, TIMES), boxes=tuple(sorted(boxes.items())), heard=())
    heard = {serial: Unit(serial=serial) for serial in (A, B)}
    return replace(world, heard=tuple(sorted(heard.items())))


def key(world: World) -> object:
    """What tells one state from another: not times, and not the history."""
    run = world.run
    order = (run.order.kind, run.order.unit, run.order.number) if run.order else None
    late = (run.late.kind, run.late.unit, run.late.number) if run.late else None
    fresh = tuple(sorted(run.fresh))
    return (
        run.state, order, late, fresh, world.boxes, world.heard, world.synchronised, world.crashes
    )  # fmt: skip


@pytest.fixture(scope="module")
def reachable() -> list[World]:
    """Every state that any order of reports, losses, one crash and missed deadlines leads to."""
    first = begun()
    found = {key(first): first}
    queue = deque([first])
    while queue:
        for world in queue.popleft().moves():
            if key(world) not in found:
                found[key(world)] = world
                if world.run.state is State.RUNNING:
                    queue.append(world)
    return list(found.values())


def test_every_order_goes_to_the_redundant_unit_of_a_settled_pair_whatever_happens(
    reachable: list[World],
) -> None:
    # `check_order` has looked at each of them.
    assert len(reachable) > 1_000
    states = {world.run.state for world in reachable}
    assert states == {State.RUNNING, State.STOPPED, State.COMPLETE}
    ordered = {(w.run.order.kind, w.run.order.unit) for w in reachable if w.run.order}
    assert ordered == {(kind, serial) for kind in Kind for serial in (A, B)}


def test_without_a_crash_one_unit_serves_at_every_moment(reachable: list[World]) -> None:
    for world in reachable:
        if world.crashes == 0:
            assert [w for w in (A, B) if world.box(w).up and world.box(w).active]


def test_a_run_is_complete_only_where_both_units_run_the_licenses_and_the_first_is_active(
    reachable: list[World],
) -> None:
    complete = [world for world in reachable if world.run.state is State.COMPLETE]
    assert complete
    for world in complete:
        heard = dict(world.heard)
        assert all(unit.installed for unit in heard.values())
        assert heard[A].serves
        assert not heard[B].serves


def test_from_every_state_the_run_ends_and_a_stopped_one_can_be_resumed_to_its_end(
    reachable: list[World],
) -> None:
    ends = set()
    for world in reachable:
        ended = world.fair()
        ends.add(ended.run.state)
        assert ended.run.state is not State.RUNNING, ended.run.wait
        if ended.run.state is State.STOPPED:
            again = ended.resumed().fair()
            assert again.run.state is State.COMPLETE, again.run.wait
            assert all(again.box(serial).runs == NEW for serial in (A, B))
            assert again.box(A).active
    assert ends == {State.STOPPED, State.COMPLETE}


def test_from_every_open_state_the_run_can_be_rolled_back(reachable: list[World]) -> None:
    for world in reachable:
        if world.run.state in OPEN:
            ended = world.back().fair()
            if ended.run.state is State.STOPPED:
                ended = ended.resumed().fair()
            assert ended.run.state is State.ROLLED_BACK, (ended.run.state, ended.run.wait)
            assert all(ended.box(serial).runs == OLD for serial in (A, B))
            assert ended.box(A).active


def test_the_four_steps_come_in_their_order() -> None:
    world = begun().fair()
    assert world.run.state is State.COMPLETE
    said = [(line.what, line.step) for line in world.run.lines if line.step]
    assert said == [(what, n) for n in (1, 2, 3, 4) for what in ("ordered", "done")]
    assert [(p.step, p.unit, p.status) for p in progress(world.run)] == list(
        zip(STEPS, (B, B, A, A), ["done"] * 4, strict=True)
    )


def test_with_one_switchover_the_other_unit_stays_active() -> None:
    world = begun()
    world = replace(world, run=start(A, B, 0.0, TIMES, returns=False)).fair()
    assert world.run.state is State.COMPLETE
    assert world.box(B).active
    assert [p.status for p in progress(world.run)] == ["done"] * 3


def test_a_unit_that_failed_over_by_itself_needs_no_switchover() -> None:
    world = begun()
    for serial in (A, B):
        world = world.report(serial)
    world = world.report(B).act(B).come_up(B)
    world = world.go_down(A).come_up(A).fair()
    assert world.run.state is State.COMPLETE
    assert [p.status for p in progress(world.run)] == ["done", "not_needed", "done", "done"]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("no_pair", {"role": Role.UNKNOWN}),
        ("other_peer", {"peer": "SN-X"}),
        ("fault", {"role": Role.FAULT}),
        ("alone", {"role": Role.ALONE}),
        ("none_active", {"role": Role.REDUNDANT}),
        ("not_synchronised", {"synchronised": False}),
        ("not_received", {}),
    ],
)
def test_what_keeps_a_run_from_going_on_is_said_and_stops_it_at_its_deadline(
    code: str, wrong: dict[str, object]
) -> None:
    world = begun()
    units = {A: world.seen(A), B: world.seen(B)}
    if code == "not_received":
        units[B] = msgspec.structs.replace(units[B], received=0)
    else:
        units[A] = msgspec.structs.replace(units[A], **wrong)
    run = world.run
    for serial in (A, B):
        run = advance(run, units, 10.0, TIMES, heard=serial)
    assert (run.state, run.wait and run.wait.code) == (State.RUNNING, code)
    assert next_timer(run) == run.deadline
    run = advance(run, units, run.deadline, TIMES)
    assert (run.state, run.order) == (State.STOPPED, None)
    assert run.wait
    assert run.wait.code == code
    assert next_timer(run) is None


def test_two_active_units_are_asked_nothing() -> None:
    world = begun()
    units = {s: msgspec.structs.replace(world.seen(s), role=Role.ACTIVE) for s in (A, B)}
    run = world.run
    for serial in (A, B):
        run = advance(run, units, 10.0, TIMES, heard=serial)
    assert run.wait
    assert run.wait.code == "both_active"


def test_a_clock_that_is_set_back_does_not_make_a_run_wait_for_longer() -> None:
    run = start(A, B, 1e9, TIMES)
    run = advance(run, dict(begun().heard), 0.0, TIMES)
    assert run.deadline <= TIMES.longest()


def asked_to_switch() -> World:
    """A run that has asked for its first switchover."""
    world = begun()
    for serial in (A, B, B):
        world = world.report(serial)
    world = world.act(B).come_up(B)
    world = replace(world, synchronised=True).report(B).report(A).report(B).report(A)
    assert world.run.order
    assert world.run.order.kind is Kind.SWITCH
    return world


def test_a_switchover_that_is_under_way_is_not_done_yet() -> None:
    world = asked_to_switch()
    under_way = world.act(A).report(A)
    assert under_way.box(A).result == UNDER_WAY
    assert under_way.run.order == world.run.order


def test_a_refused_switchover_is_asked_for_again_in_a_while_and_not_for_ever() -> None:
    world = asked_to_switch()
    units, run, now = dict(world.heard), world.run, 0.0
    asked = []
    while run.state is State.RUNNING:
        if run.order is not None:
            asked.append(now)
            units[A] = msgspec.structs.replace(
                units[A],
                switch_done=run.order.number,
                switch_result="refused: the units are not synchronised",
                next_switch=run.order.number + 1,
            )
        now += 0.5
        for serial in (A, B):
            run = advance(run, units, now, TIMES, heard=serial)
        assert now < 2 * TIMES.settle
    # Twice as long after each time, and half a minute at most.
    gaps = [round(b - a) for a, b in itertools.pairwise(asked)]
    assert gaps[:4] == [2, 4, 8, 16]
    assert set(gaps[5:]) <= {30, 31}
    assert TIMES.settle <= now <= TIMES.settle + 40
    assert run.wait
    assert run.wait.code == "switch_refused"
    assert "not synchronised" in run.wait.sentence
    # Until then it goes on at once where the unit does hand over.
    run = resume(run, now, TIMES)
    for serial in (A, B, A, B, A, B):
        run = advance(run, units, now, TIMES, heard=serial)
    assert run.order


def test_a_switchover_that_was_begun_and_failed_stops_the_run_with_its_reason() -> None:
    world = asked_to_switch().act(A).put(A, result="failed: it was not taken").report(A)
    assert world.run.state is State.STOPPED
    assert world.run.wait
    assert world.run.wait.code == "switch_refused"
    assert "failed: it was not taken" in world.run.wait.sentence


def test_a_restart_that_does_not_apply_the_licenses_stops_the_run() -> None:
    world = begun()
    for serial in (A, B, B):
        world = world.report(serial)
    world = world.put(B, restart=1, asked=None).report(B)
    assert world.run.wait
    assert world.run.wait.code == "not_applied"
    world = world.late_by(TIMES.restart)
    assert world.run.state is State.STOPPED


def test_units_that_change_roles_again_and_again_are_left_alone() -> None:
    world = begun()
    for _ in range(4 * MOST_ORDERS):
        for serial in (A, B):
            world = world.report(serial)
        box = world.box(B)
        if world.run.order and world.run.order.unit == B and box.asked:
            world = world.act(B).come_up(B)
            # The unit loses again what it has installed.
            world = replace(world.report(B).put(B, runs=OLD), synchronised=True)
        if world.run.state is not State.RUNNING:
            break
    assert world.run.state is State.STOPPED
    assert world.run.wait
    assert world.run.wait.code == "too_many_orders"


def test_an_operator_stops_closes_and_what_is_over_stays_so() -> None:
    world = begun()
    stopped = stop(world.run, 5.0, "ada")
    assert stopped.wait
    assert stopped.wait.sentence == "ada has stopped it"
    assert stop(stopped, 6.0, "eve") == stopped
    assert advance(stopped, dict(world.heard), 1e9, TIMES, heard=A) == stopped
    closed = close(stopped, 7.0, "ada")
    assert closed.state is State.CLOSED
    assert [p.status for p in progress(closed)] == ["to_do"] * 4


def test_an_order_that_was_out_when_the_run_stopped_is_waited_for_before_another() -> None:
    world = begun()
    for serial in (A, B):
        world = world.report(serial)
    order = world.run.order
    assert order
    run = resume(stop(world.run, 1.0, "ada"), 2.0, TIMES)
    assert run.late == order
    for serial in (A, B, A, B):
        run = advance(run, dict(world.heard), 3.0, TIMES, heard=serial)
    assert (run.order, run.wait and run.wait.code) == (None, "late_order")
    assert next_timer(run) == TIMES.settle + 2.0
    # Its own word that it has carried it out ends the waiting.
    units = dict(world.heard)
    units[B] = msgspec.structs.replace(units[B], restart_done=order.number, running=1)
    run = advance(run, units, 4.0, TIMES, heard=B)
    assert run.late is None


def local_key(**over: object) -> LocalKey:
    values = {
        "key_id": "K-1", "sequence": 1, "serials": (A, B), "counts": Capacity.of({}),
        "maximum": Capacity.of({"sbc_sessions": 100}), "features": frozenset(), "issued_at": 1,
    }  # fmt: skip
    return LocalKey(**{**values, **over})  # type: ignore[arg-type]


def test_a_key_for_a_pair_is_hitless_only_where_nothing_but_counts_changes() -> None:
    old = local_key()
    assert not_hitless(old, local_key(counts=Capacity.of({"sbc_sessions": 50}))) == ()
    more = local_key(features=frozenset({"test_call"}), maximum=Capacity.of({"sbc_sessions": 9}))
    assert not_hitless(old, more) == ("feature test_call", "maximum capacity")
    assert not_hitless(None, local_key()) == ()
    assert check_pair_key(old, B, A) is old
    with pytest.raises(LicenseError, match="bound to SN-A"):
        check_pair_key(local_key(serials=(A,)), A, B)


def test_the_procedure_of_a_local_key_has_one_switchover_and_restarts_the_active_unit_last() -> (
    None
):
    plan = [step.plan for step in KEY_STEPS if step.plan]
    assert [(s.kind, s.first) for s in plan] == [
        (Kind.INSTALL, False), (Kind.SWITCH, False), (Kind.INSTALL, True),
    ]  # fmt: skip
    assert "".join(step.letter for step in KEY_STEPS) == "abcdef"
