"""The gate's tests need Kamailio and SIPp themselves: a missing one is an error that says so."""

from __future__ import annotations

import shutil

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    del items
    for program, package in (("kamailio", "kamailio"), ("sipp", "sip-tester")):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/bin:/usr/local/bin") is None:
            pytest.exit(f"{program} is missing: run apt-get install {package}.", 3)
