"""The protocol survives an authority that is hostile on purpose, over real HTTPS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from authoritykit import Denied, SmartDevice, buy, smart_token
from managerkit import Running, Site, running

from callpool.host.ports import free_port
from callpool.lab.hostile import FAULTS, REFUSED, Hostile, HostileServer
from callpool.licensing.errors import CallpoolError, TrustError
from callpool.manager.settings import load
from callpool.wire.messages import CONTENT_TYPE
from callpool.wire.smart_messages import (
    RENEW_ID_PATH,
    AuthorizeReply,
    DeregisterReply,
    RenewIdReply,
    RenewIdRequest,
    SmartReply,
)
from callpool.wire.tokens import split

R = TypeVar("R", bound=SmartReply)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Running]:
    port = free_port()
    site = Site(tmp_path / "manager", urls=(f"https://localhost:{port}",))
    with running(site) as made:
        made.call("POST", "/smart/accounts", {"name": "acme"}, 201)
        buy(made, "PO-1", 1000)
        yield made


def hostile(manager: Running, **rules: Any) -> tuple[Hostile, HostileServer, str]:
    """Start a hostile authority at the address that the manager knows."""
    (url,) = load(manager.site.layout).urls
    made = Hostile(
        directory=manager.site.layout.directory, upstream=manager.url, delay=0.05, **rules
    )
    server = HostileServer(made, "127.0.0.1", int(url.rpartition(":")[2]))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    return made, server, url


class Stubborn:
    """Repeats a request, byte for byte, until an answer to it can be believed."""

    def __init__(self, device: SmartDevice) -> None:
        self.device = device
        self.refusals = 0
        self.disbelieved = 0

    def until(self, once: Callable[[], R]) -> R:
        for _ in range(200):
            try:
                return once()
            except Denied as denied:
                if denied.code != REFUSED:
                    raise
                self.refusals += 1
            except (httpx.HTTPError, TrustError, AssertionError):
                self.disbelieved += 1
        raise AssertionError("200 attempts in vain")

    def ask(self, kind: type[R], request: Any) -> R:
        def once() -> R:
            answer = self.device.send(kind, request)
            if isinstance(answer, AuthorizeReply):
                assert answer.authorization.version > self.device.version
            return answer

        return self.device.take(self.until(once))


@pytest.mark.parametrize("seed", range(4))
def test_a_device_and_the_authority_agree_after_any_faults(manager: Running, seed: int) -> None:
    rules, server, url = hostile(manager, share=0.6, seed=seed)
    try:
        device = SmartDevice(manager, "SP-1", url=url)
        device.most_off = 3600.0
        stubborn = Stubborn(device)
        token = smart_token(manager)
        request = device.registration(token)
        stubborn.until(lambda: device.send_registration(request, split(token)[1]))
        for round_ in range(12):
            count = 5 * (round_ + 1)
            answer = stubborn.ask(AuthorizeReply, device.authorization(count))
            assert answer.authorization.status == "in_compliance"
            assert answer.authorization.in_use == count
            (row,) = manager.call("GET", "/smart/instances", status=200)["instances"]
            assert row["status"] == "registered"
            (held,) = row["authorizations"]
            assert (held["version"], held["count"]) == (device.version, count)
        stubborn.ask(RenewIdReply, _renewal(device))
        stubborn.ask(DeregisterReply, device.deregistration())
        assert manager.call("GET", "/smart/instances", status=200)["instances"] == []
        (license_,) = manager.call("GET", "/smart/entitlements", status=200)["entitlements"]
        assert license_["in_use"] == 0
        assert stubborn.refusals + stubborn.disbelieved > 3
        assert manager.call("GET", "/smart/alerts", status=200)["alerts"] == []
        assert len(rules.done) > 3
    finally:
        server.shutdown()
        server.server_close()


def _renewal(device: SmartDevice) -> Any:
    return RenewIdRequest(**device.asking(RENEW_ID_PATH), request=device.csr())


@pytest.mark.parametrize("fault", [f for f in FAULTS if f not in ("delay", "repeat", "reorder")])
def test_no_spoilt_answer_is_ever_believed(manager: Running, fault: str) -> None:
    rules, server, url = hostile(manager, share=0.0)
    try:
        device = SmartDevice(manager, "SP-1", url=url)
        device.register(smart_token(manager))
        device.most_off = 3600.0
        device.authorize(5)
        value, version = device.value, device.version
        rules.share, rules.faults = 1.0, (fault,)
        for _ in range(3):
            # An error page is told from an answer by its content type: an AssertionError here.
            with pytest.raises((Denied, TrustError, httpx.HTTPError, AssertionError)):
                device.authorize(10)
        rules.share = 0.0
        assert (device.value, device.version) == (value, version)
        assert device.status(10) == "in_compliance"
    finally:
        server.shutdown()
        server.server_close()


def test_hints_and_the_operators_door_are_passed_on(manager: Running) -> None:
    _, server, url = hostile(manager, share=0.0)
    try:
        device = SmartDevice(manager, "SP-1", url=url)
        device.register(smart_token(manager))
        device.authorize(5)
        assert next(device.hints()).startswith(":")
        reply = device.http.get(
            f"{url}/api/v1/smart", auth=("admin", manager.site.password), timeout=60
        )
        assert reply.status_code == 200
        assert CONTENT_TYPE not in reply.headers["content-type"]
    finally:
        server.shutdown()
        server.server_close()


def test_what_it_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    for rules, code in (({"faults": ("explode",)}, "unknown_fault"), ({"share": 2.0}, "bad_share")):
        with pytest.raises(CallpoolError) as caught:
            Hostile(directory=tmp_path, upstream="https://localhost:1", **rules)
        assert caught.value.code == code
