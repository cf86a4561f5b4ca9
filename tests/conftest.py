"""What all tests share: short temporary directories, no deadlines from hypothesis, their order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from callpool.host.structs import ready_for_threads
from spread import dealt

# How long one example takes says something of the machine, and nothing of the code.
hypothesis.settings.register_profile(
    "callpool", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("callpool")

_LAYERS = Path(__file__).parent


@pytest.hookimpl(trylast=True)  # after pytest-randomly, whose order each layer keeps
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        modules: dict[Path, list[pytest.Item]] = {}
        for item in items:
            modules.setdefault(item.path, []).append(item)
        items[:] = dealt(
            ((path.relative_to(_LAYERS).parts[0], tests) for path, tests in modules.items()),
            workers,
        )


def pytest_collection_finish() -> None:
    ready_for_threads()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        if isinstance(kept := getattr(item, "funcargs", {}).get("tmp_path"), Path):
            report.sections.append(("the test's files", f"kept in {kept}"))
    return report


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory with a short name, kept when the test fails.

    pytest's own carries the test's name and a run counter, and the path of a Unix socket has no
    more than 108 bytes.
    """
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    yield directory
    if _FAILED not in request.node.stash:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    """A directory with a short name for all tests of a module."""
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
