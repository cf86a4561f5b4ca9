"""The console over HTTPS, without a browser: its door, its stream, its files, its refusals."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from managerkit import Running, Site, eventually, running

from callpool.licensing.errors import CallpoolError
from callpool.manager.console import assets

S = "sbc_sessions"


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("console") / "manager")
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=40, far_end_users=40))
        made.add("one", "SN-1", apply="restart")
        yield made


@contextlib.contextmanager
def seated(manager: Running, *, next_page: str = "/") -> Iterator[httpx.Client]:
    """Sign in as a browser does: by form, for a cookie."""
    client = manager.client(signed_in=False)
    client.headers["Origin"] = manager.url
    form = {"username": "admin", "password": manager.site.password, "next": next_page}
    signed = client.post("/sign-in", data=form)
    assert signed.status_code == 303, signed.text
    client.headers["x-location"] = signed.headers["location"]
    try:
        yield client
    finally:
        client.close()


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/pool?q=one", "/pool?q=one"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("/\\elsewhere.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_on_to_pages_of_the_manager_only(
    manager: Running, asked: str, led: str
) -> None:
    with seated(manager, next_page=asked) as client:
        assert client.headers["x-location"] == led


def test_a_cookie_alone_changes_nothing_and_neither_does_another_site(manager: Running) -> None:
    with seated(manager) as client:
        page = client.get("/devices/one").text
        refused = client.post("/devices/one/manage", data={})
        assert (refused.status_code, "csrf_needed" in refused.text) == (403, True)
        form = {"csrf": csrf(page)}
        foreign = client.post(
            "/devices/one/manage", data=form, headers={"Origin": "https://elsewhere.example"}
        )
        assert (foreign.status_code, "foreign_origin" in foreign.text) == (403, True)
        done = client.post("/devices/one/manage", data=form)
        assert (done.status_code, done.headers["location"]) == (303, "/devices/one")
        # What was done is said once.
        assert "The pool manages one." in client.get("/devices/one").text
        assert "The pool manages one." not in client.get("/devices/one").text


def test_pages_carry_the_strict_policy_and_nothing_inline(manager: Running) -> None:
    with seated(manager) as client:
        for address in ("/", "/pool?edit=one", "/devices/one", "/audit", "/smart", "/account"):
            reply = client.get(address)
            assert "script-src 'self'" in reply.headers["content-security-policy"]
            assert "unsafe" not in reply.headers["content-security-policy"]
            assert reply.headers["cache-control"] == "no-store"
            assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", reply.text)
            assert not re.search(r'(?:src|href|action)="(?!/|#|\?)', reply.text)


def test_what_is_typed_is_shown_as_text_and_never_as_page(manager: Running) -> None:
    evil = '"><script>alert(1)</script>'
    with seated(manager) as client:
        for address in (
            f"/pool?q={evil}", f"/audit?who={evil}", f"/smart/events?instance={evil}",
            f"/alarms/history?device={evil}", f"/sign-in?next=/{evil}",
        ):  # fmt: skip
            assert "<script>alert" not in client.get(address).text
        form = {"csrf": csrf(client.get("/").text), "name": evil, "serials": evil, "tenant": evil}
        refused = client.post("/pool/devices", data=form)
        assert refused.status_code == 400
        assert "<script>alert" not in refused.text
        assert "&lt;script&gt;" in refused.text


def test_files_are_kept_for_good_under_an_address_with_their_hash(manager: Running) -> None:
    with seated(manager) as client:
        found = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text)
        assert len(found) == len(assets.FILES)
        for address in found:
            reply = client.get(address)
            assert reply.status_code == 200
            assert "immutable" in reply.headers["cache-control"]
        assert client.get("/static/vendor/../../page.py").status_code == 404
        assert client.get("/static/no-such.js").status_code == 404


def test_a_missing_file_is_an_error_that_names_the_command_that_mends_it(tmp_path: Path) -> None:
    shutil.copytree(Path(assets.__file__).parent / "static", tmp_path / "static")
    (tmp_path / "static" / "vendor" / "htmx.min.js").unlink()
    with pytest.raises(CallpoolError, match=r"mend it with: scripts/setup") as caught:
        assets.load(tmp_path / "static")
    assert caught.value.code == "console_files_missing"


def test_a_live_part_is_sent_again_only_when_it_differs(manager: Running) -> None:
    with seated(manager) as client:
        first = client.get("/pool", headers={"x-callpool-live": "none"})
        assert first.status_code == 200
        assert "<html" not in first.text
        tag = first.headers["x-callpool-live"]
        again = client.get("/pool", headers={"x-callpool-live": tag})
        assert (again.status_code, again.content) == (204, b"")
        manager.add("two", "SN-2")
        changed = client.get("/pool", headers={"x-callpool-live": tag})
        assert changed.status_code == 200
        assert "two" in changed.text


def test_many_changes_are_one_signal_a_second_and_the_last_is_not_lost(manager: Running) -> None:
    heard: list[tuple[float, str]] = []
    opened, ended = threading.Event(), threading.Event()
    with seated(manager) as client:

        def listen() -> None:
            with (
                contextlib.suppress(httpx.HTTPError),
                client.stream("GET", "/live", headers={"accept": "text/event-stream"}) as stream,
            ):
                for line in stream.iter_lines():
                    if line.startswith("event: "):
                        heard.append((time.monotonic(), line[7:]))
                        opened.set()
                    if ended.is_set():
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        assert opened.wait(30)

        def signals() -> list[float]:
            return [at for at, name in heard if name == "changed"]

        begin = time.monotonic()
        for number in range(30):
            manager.call("PUT", "/devices/one/allocation", {S: number % 7})
        changes = time.monotonic()
        eventually(lambda: [at for at in signals() if at > changes])
        assert len(signals()) <= time.monotonic() - begin + 2
        ended.set()
        manager.call("PUT", "/devices/one/allocation", {S: 1})
        listener.join(30)
        assert not listener.is_alive()


def test_a_manager_that_is_told_to_stop_ends_open_streams_and_stops(tmp_path: Path) -> None:
    site = Site(tmp_path / "manager")
    events = {"accept": "text/event-stream"}
    with (
        running(site) as made,
        seated(made) as client,
        client.stream("GET", "/live", headers=events) as stream,
    ):
        next(stream.iter_lines())
        assert made.stop() == 0


def test_an_order_file_and_a_bulk_file_are_taken_from_a_form(manager: Running) -> None:
    with seated(manager) as client:
        token = csrf(client.get("/pool/orders").text)
        envelope = manager.site.order("PO-form", sbc_sessions=3)
        done = client.post("/pool/orders", data={"csrf": token, "file": f"{envelope}\n"})
        assert done.headers["location"] == "/pool/orders"
        assert "PO-form" in client.get("/pool/orders").text
        exported = client.get("/pool/bulk.csv")
        assert exported.headers["content-type"].startswith("text/csv")
        form = {"csrf": token, "file": exported.text, "do": "preview"}
        assert "Nothing would change." in client.post("/pool/bulk", data=form).text


def test_a_form_that_is_not_one_is_refused_in_a_sentence(manager: Running) -> None:
    with seated(manager) as client:
        token = csrf(client.get("/").text)
        reply = client.post(
            "/pool/orders",
            content=b"{}",
            headers={"content-type": "application/json", "x-csrf-token": token},
        )
        assert (reply.status_code, "wrong_content_type" in reply.text) == (415, True)
        for address in ("/pool?limit=many", "/audit?since=yesterday", "/devices/one?span=century"):
            reply = client.get(address)
            assert (reply.status_code, "bad_request" in reply.text) == (400, True), address
        assert client.get("/no/such/page").status_code == 404
