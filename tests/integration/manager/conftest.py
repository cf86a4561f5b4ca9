"""Which database a manager's tests run on: SQLite always, PostgreSQL where named below.

`make test` runs on PostgreSQL what is most likely to differ there; `-m full` all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import managerkit
import pytest

from callpool.lab.postgres import Cluster, cluster

#: Modules that run on both databases, and those of their tests that `make test` runs on
#: PostgreSQL: all (None), or the named ones.
BOTH: dict[str, frozenset[str] | None] = {
    "test_manager_basics": None,
    "test_manager_trust": frozenset(),
    "test_manager_survives": frozenset(),
    "test_pool_requests": frozenset(),
    "test_pool_bulk": frozenset(),
    "test_changes_once": None,
    "test_authority": frozenset(),
    "test_tenants_apart": frozenset(),
    "test_contact_desk": None,
    "test_manager_restored": None,
    "test_pool_bad_input": frozenset(),
    "test_roles": frozenset(),
    "test_access": frozenset(),
    "test_console_http": frozenset(),
    "test_usage_kept": frozenset(),
    "test_alarms_heard": frozenset(),
    "test_alarms_forwarded": frozenset(),
    "test_authority_events": frozenset(),
    "test_api_document": frozenset(),
    "test_hostile_authority": frozenset(),
    "test_hitless_installation": frozenset(
        {"test_of_two_managers_one_drives_and_their_orders_are_one"}
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in BOTH and "engine" in metafunc.fixturenames:
        chosen = BOTH[module]
        quick = chosen is None or metafunc.function.__name__ in chosen
        metafunc.parametrize(
            "engine",
            [
                "sqlite",
                pytest.param("postgresql", marks=() if quick else pytest.mark.full),
            ],
            indirect=True,
            scope="module",
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A private cluster, one of each test process."""
    with cluster() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The database that sites of this module are made on."""
    name = getattr(request, "param", "sqlite")
    managerkit.new_database = (
        request.getfixturevalue("postgres").database if name == "postgresql" else None
    )
    yield name
    managerkit.new_database = None
