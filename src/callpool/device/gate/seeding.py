"""Make the seed of a start: from the book, the clocks and the policy.

Also for an external Kamailio, whose service manager runs `seed_external` before it starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from callpool.device.gate.calls import CallBook
from callpool.device.gate.journal import GateState, Journal, Moment
from callpool.device.gate.policy import render
from callpool.device.gate.render import write_private
from callpool.device.gate.seed import Seed, write_seed
from callpool.device.gate.settings import GateError, GateSettings
from callpool.host.clock import SystemClock
from callpool.licensing.admission import AdmissionPolicy, Step
from callpool.licensing.capacity import SBC_SESSIONS

#: The journal is taken as complete once it has been quiet for so long, in seconds.
_QUIET: Final = 0.15


class _Reading(Protocol):
    @property
    def wall(self) -> float: ...
    @property
    def boottime(self) -> float: ...
    @property
    def boot_id(self) -> str: ...


def tick_now(moment: Moment, now: _Reading) -> int:
    """Return Kamailio's tick had it gone on counting since `moment` (seconds)."""
    if not moment.boot_id:
        passed = 0.0
    elif moment.boot_id == now.boot_id:
        passed = now.boottime - moment.boottime
    else:
        passed = now.wall - moment.wall
    return moment.tick + max(0, min(int(passed), 10_000_000))


def make_seed(
    book: CallBook,
    moment: Moment,
    settings: GateSettings,
    policy: AdmissionPolicy,
    *,
    now: _Reading,
    step: Step,
    uncertain: bool,
    gen: int,
    render_policy: Callable[[AdmissionPolicy, int], str],
    serving: bool = False,
) -> Seed:
    """Return what a new Kamailio starts from.

    `serving` says whether this unit of a pair has the service address.
    `now` is the machine's own time, `step` the policy's step in force. With
    `uncertain`, sessions that nobody counted may be up: as many as the license leaves room for
    count as used until a BYE of one arrives, or the longest call is over.
    """
    # Beyond every tick that a key can have: what was up before the start is known by it.
    tick = tick_now(moment, now) + 2
    book.forget_expired(now.wall)
    calls = book.without_forks()
    book.calls = dict(calls)
    known = sum(1 for v in calls.values() if not v & 1)
    cap = step.caps.get(SBC_SESSIONS)
    unknown, until = book.uncertain, book.uncertain_until
    if uncertain and cap is not None and cap - known > unknown:
        unknown, until = cap - known, tick + settings.max_call_seconds
    return Seed(
        policy=render_policy(policy, tick),
        calls=calls,
        users=dict(book.users),
        secrets=dict(settings.users),
        refused={**moment.refused, **book.refused},
        gen=gen & 0x7FFFFFFF,
        seq=book.done,
        tick=tick,
        admitted=max(moment.admitted, book.admitted),
        uncertain=unknown,
        uncertain_until=until,
        serving=serving,
    )


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What `seed_external` must know: settings and policy."""

    settings: GateSettings
    steps: list[dict[str, Any]]


def save_for_external(settings: GateSettings, policy: AdmissionPolicy) -> None:
    """Keep settings and policy where `seed_external` finds them. Raises OSError."""
    saved = _Saved(settings=settings, steps=[msgspec.to_builtins(s) for s in policy.steps])
    write_private(settings.path / "external.json", msgspec.json.encode(saved).decode())


def seed_external(directory: Path, clock: Any = None) -> Seed:
    """Write the seed of an external Kamailio; its service manager runs this before the start.

    `clock` is the clock that the policy is written in (the system's own when None). Returns
    what was written. Raises GateError `gate_not_set_up`.
    """
    try:
        saved = msgspec.json.decode((directory / "external.json").read_bytes(), type=_Saved)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise GateError(
            "gate_not_set_up", f"{directory} holds no gate of an external Kamailio: {exc}."
        ) from exc
    policy = AdmissionPolicy(steps=tuple(msgspec.convert(s, Step) for s in saved.steps))
    journal = Journal(directory / "calls.journal")
    # A driver that listens writes what it hears at once; a moment of quiet and all is there.
    listening = journal.locked_elsewhere()
    deadline = time.monotonic() + 2.0
    while listening and time.monotonic() < deadline:
        if time.time() - journal.path.stat().st_mtime > _QUIET:
            break
        time.sleep(0.02)
    book = CallBook()
    journal.load(book)
    state = GateState.load(directory)
    real = SystemClock()
    clock = real if clock is None else clock
    first = not journal.path.exists() or state.gen == 0
    seed = make_seed(
        book, journal.moment, saved.settings, policy, now=real.now(),
        step=policy.at(clock.now().wall), gen=state.gen + 1,
        uncertain=not (listening or journal.clean or first),
        render_policy=lambda p, tick: render(
            p, saved.settings, now=clock.now().wall, real=real.now().wall, tick=tick,
            real_seconds=clock.real_seconds,
        ),
    )  # fmt: skip
    write_seed(directory / "seed.db", seed)
    msgspec.structs.replace(state, gen=seed.gen).save(directory)
    return seed
