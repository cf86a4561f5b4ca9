"""How the models' state machines are played: so many walks of so many steps."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def machine(examples: int, steps: int) -> settings:
    """Return hypothesis' settings; how long a step takes says nothing of the code."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
