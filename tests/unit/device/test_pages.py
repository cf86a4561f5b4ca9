"""The pages' door: who gets in, what he may, and what a form does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from argon2 import PasswordHasher
from device_world import World

from callpool.device import users
from callpool.device.config import CreateUser, SetGroup, SetPassword
from callpool.device.config_book import ConfigBook, Doorkeeper
from callpool.device.config_door import ConfigDoor
from callpool.device.control import Control
from callpool.device.errors import DeviceError
from callpool.device.faces.pages import make_app
from callpool.device.faces.reader import Reader
from callpool.device.faces.sessions import LIFE, MAX_SESSIONS, Sessions
from callpool.device.status import Status
from callpool.device.users import Group, hash_password

PASSWORD = "correct horse"
URL = "https://device.test"
FORMS = (
    "/license-key/restart", "/license-key/contact", "/license-key/install",
    "/license-key/factory-reset", "/configuration/write", "/smart/enable", "/smart/disable",
    "/smart/register", "/smart/deregister", "/smart/renew-auth", "/smart/renew-id", "/smart/count",
)  # fmt: skip


class Face:
    """The pages with a core behind them that has real users and notes what it is told."""

    def __init__(self, directory: Path, status: Status) -> None:
        self.told: list[dict[str, Any]] = []
        self.noted: list[tuple[str, dict[str, Any]]] = []
        self.answer: object = {"code": "", "detail": "", "calls": 0, "told": True}
        self.refusal: DeviceError | None = None
        self.time = 1000.0
        self.status = status
        self.book = ConfigBook(directory / "config.json", self._note)
        keeper = Doorkeeper(self.book, self._note, lambda: self.time)

        async def any_command(request: dict[str, Any]) -> object:
            self.told.append(request)
            if self.refusal:
                raise self.refusal
            return self.answer

        async def shown(_: dict[str, Any]) -> Status:
            return self.status

        others = ("restart", "drain", "pull", "key_install", "factory_reset", "smart")
        self.control = Control(
            directory / "control.sock",
            {
                **ConfigDoor(self.book, keeper).commands(),
                **dict.fromkeys(others, any_command),
                "status": shown,
            },
        )
        self.app = make_app(
            Reader(directory / "control.sock"),
            directory / "sml.log",
            control=directory / "control.sock",
            serial="S1",
        )

    def _note(self, event: str, **details: Any) -> None:
        self.noted.append((event, details))

    async def user(self, name: str, group: Group) -> None:
        for change in (
            CreateUser(name=name),
            SetGroup(name=name, group=group),
            SetPassword(name=name, hash=hash_password(PASSWORD)),
        ):
            await self.book.change(change, who="test")

    def client(self) -> httpx.AsyncClient:
        app: Any = self.app
        transport = httpx.ASGITransport(app=app, client=("192.0.2.9", 1))
        return httpx.AsyncClient(transport=transport, base_url=URL, follow_redirects=True)


@pytest.fixture
async def face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Face]:
    # A password costs what it costs in the tests of real devices; here, as little as can be.
    monkeypatch.setattr(users, "PasswordHasher", partial(PasswordHasher, 1, 8, 1))
    world = World(tmp_path / "device")
    await world.start()
    made = Face(tmp_path, world.agent.status())
    await world.crash()
    await made.control.start()
    await made.user("anna", Group.ADMINISTRATOR)
    yield made
    await made.control.stop()


async def sign_in(client: httpx.AsyncClient, name: str = "anna", password: str = PASSWORD) -> Any:
    return await client.post(
        "/sign-in", data={"name": name, "password": password}, follow_redirects=False
    )


async def csrf_of(client: httpx.AsyncClient, path: str = "/license-key") -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', (await client.get(path)).text)
    return found[1] if found else ""


async def test_nobody_reads_or_changes_anything_without_signing_in(face: Face) -> None:
    async with face.client() as client:
        assert (await client.get("/events")).status_code == 401
        for path in ("/license-key", "/smart"):
            answer = await client.get(path, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"].split("?")[0]) == (
                303,
                "/sign-in",
            )
            assert "S1" not in answer.text
        told = await client.get("/status.json")
        assert (told.status_code, told.json()["code"]) == (401, "not_signed_in")
        for path in FORMS:
            answer = await client.post(path, data={"csrf": "x"}, follow_redirects=False)
            assert (answer.status_code, face.told) == (303, [])


async def test_the_shells_user_signs_in_and_out(face: Face) -> None:
    async with face.client() as client:
        wrong = await sign_in(client, password="wrong")
        assert wrong.status_code == 401
        assert "The user name or the password is wrong." in wrong.text
        assert "set-cookie" not in wrong.headers
        right = await client.post(
            "/sign-in", data={"name": "anna", "password": PASSWORD, "to": "/smart"},
            follow_redirects=False,
        )  # fmt: skip
        assert (right.status_code, right.headers["location"]) == (303, "/smart")
        cookie = right.headers["set-cookie"]
        assert cookie.startswith("__Host-callpool-")
        assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert "anna, administrator" in (await client.get("/license-key")).text
        assert face.noted[-1][0] == "signed_in"
        assert face.noted[-1][1] | {"source": ""} == {
            "who": "anna", "source": "", "via": "pages", "how": "password",
        }  # fmt: skip
        await client.post("/sign-out", follow_redirects=False)
        client.cookies.set(cookie.partition("=")[0], cookie.partition("=")[2].partition(";")[0])
        again = await client.get("/license-key", follow_redirects=False)
        assert again.status_code == 303, "the old cookie is worth nothing"


async def test_signing_in_leads_to_our_own_pages_only(face: Face) -> None:
    async with face.client() as client:
        for to in ("https://evil.test/", "//evil.test", "/status.json", "javascript:1"):
            answer = await client.post(
                "/sign-in", data={"name": "anna", "password": PASSWORD, "to": to},
                follow_redirects=False,
            )  # fmt: skip
            assert answer.headers["location"] == "/license-key"


async def test_failed_sign_ins_are_limited_with_the_shells(face: Face) -> None:
    async with face.client() as client:
        for _ in range(10):
            face.control._commands["signed_in"]
            await face.control._commands["signed_in"](
                {"name": "anna", "source": "192.0.2.9", "via": "ssh", "how": "password"}
            )
        late = await sign_in(client)
        assert late.status_code == 429
        assert "try again in a minute" in late.text
        face.time += 61.0
        assert (await sign_in(client)).status_code == 303


async def test_a_form_of_somebody_elses_page_does_nothing(face: Face) -> None:
    async with face.client() as client:
        await sign_in(client)
        for path in FORMS:
            for csrf in ("", "guess", "ü"):
                answer = await client.post(path, data={"csrf": csrf}, follow_redirects=False)
                assert answer.status_code == 403
                assert "stale_form" in answer.text
        assert face.told == []


async def test_only_administrators_change_anything(face: Face) -> None:
    await face.user("otto", Group.OPERATOR)
    await face.user("pia", Group.FILES)
    for name in ("otto", "pia"):
        async with face.client() as client:
            await sign_in(client, name)
            page = await client.get("/license-key")
            assert page.status_code == 200
            assert "<button" not in page.text.partition("<main")[2]
            session = next(s for s in _sessions(face) if s.name == name)
            for path in FORMS:
                answer = await client.post(
                    path, data={"csrf": session.csrf}, follow_redirects=False
                )
                assert answer.status_code == 403
                assert "not_permitted" in answer.text
    assert face.told == []


def _sessions(face: Face) -> list[Any]:
    return list(face.app.state.door.sessions._held.values())


async def test_who_is_removed_is_out_at_the_next_page(face: Face) -> None:
    await face.user("eva", Group.ADMINISTRATOR)
    async with face.client() as client:
        await sign_in(client, "eva")
        assert (await client.get("/smart")).status_code == 200
        await face.book.change(SetGroup(name="eva", group=Group.OPERATOR), who="test")
        csrf = _sessions(face)[0].csrf
        answer = await client.post("/smart/enable", data={"csrf": csrf}, follow_redirects=False)
        assert answer.status_code == 403
        face.book._running = msgspec.structs.replace(
            face.book.running, users=tuple(u for u in face.book.running.users if u.name != "eva")
        )
        face.app.state.door._users.clear()  # a second later
        assert (await client.get("/smart", follow_redirects=False)).status_code == 303


async def test_a_form_tells_the_core_who_asks_and_the_page_what_became_of_it(face: Face) -> None:
    async with face.client() as client:
        await sign_in(client)
        csrf = await csrf_of(client)
        answer = await client.post(
            "/license-key/restart", data={"csrf": csrf, "save": "1"}, follow_redirects=False
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "/license-key#restart")
        assert face.told == [{"do": "restart", "save": True, "who": "anna (pages from 192.0.2.9)"}]
        refreshed = await client.get("/license-key", headers={"x-callpool-live": "1"})
        assert "has restarted" not in refreshed.text, "told to whoever looks, not to the script"
        assert "has restarted" in (await client.get("/license-key")).text
        assert "has restarted" not in (await client.get("/license-key")).text, "told once"


async def test_a_refusal_stands_beside_its_form_and_keeps_what_was_typed(face: Face) -> None:
    face.refusal = DeviceError("bad_count", "A count is a multiple of 5, not <7>.")
    async with face.client() as client:
        await sign_in(client)
        csrf = await csrf_of(client)
        face.status = msgspec.structs.replace(face.status, smart=None)
        await client.post("/license-key/restart", data={"csrf": csrf, "graceful": "7"})
        page = (await client.get("/license-key")).text
        assert page.count("told refused") == 0, "the redirect has told it"
        answer = await client.post("/license-key/restart", data={"csrf": csrf, "graceful": "7"})
        assert "A count is a multiple of 5, not &lt;7&gt;." in answer.text
        assert 'value="7"' in answer.text
        answer = await client.post("/license-key/restart", data={"csrf": csrf, "graceful": "soon"})
        assert "told refused" in answer.text
        assert 'value="soon"' in answer.text


async def test_a_token_is_never_shown_again(face: Face) -> None:
    async with face.client() as client:
        await sign_in(client)
        csrf = await csrf_of(client)
        answer = await client.post(
            "/smart/register", data={"csrf": csrf, "token": "secret-token-1"}
        )
        assert answer.status_code == 200
        assert "secret-token-1" not in answer.text
        assert face.told == [], "what is no token is not sent"


async def test_a_key_comes_as_a_file_of_bounded_length(face: Face) -> None:
    face.answer = "LK-7"
    async with face.client() as client:
        await sign_in(client)
        csrf = await csrf_of(client)

        async def send(content: bytes) -> str:
            files = {"key": ("my.key", content)}
            return (
                await client.post("/license-key/install", data={"csrf": csrf}, files=files)
            ).text

        assert "License key LK-7 is installed" in await send(b"envelope\n")
        assert face.told[-1]["envelope"] == "envelope"
        assert "Choose the file" in await send(b"  \n")
        assert "it is too long" in await send(b"x" * 20_000)
        too_much = await client.post(
            "/license-key/install", data={"csrf": csrf}, files={"key": ("k", b"x" * 100_000)}
        )
        assert too_much.status_code == 413
        assert len(face.told) == 1


async def test_after_a_factory_reset_nobody_is_signed_in(face: Face) -> None:
    face.answer = {"told": False, "code": "no_answer", "sentence": "The manager is away."}
    async with face.client() as client:
        await sign_in(client)
        csrf = await csrf_of(client)
        page = await client.post("/license-key/factory-reset", data={"csrf": csrf, "serial": "S1"})
        assert "The manager is away." in page.text
        assert face.told[-1]["serial"] == "S1"
        assert (await client.get("/license-key", follow_redirects=False)).status_code == 303


async def test_scripts_read_the_status_by_basic_credentials(face: Face) -> None:
    async with face.client() as client:
        assert (await client.get("/status.json", auth=("anna", PASSWORD))).json()["serial"] == "S1"
        wrong = await client.get("/status.json", auth=("anna", "wrong"))
        assert (wrong.status_code, wrong.json()["code"]) == (401, "bad_credentials")
        garbage = await client.get("/status.json", headers={"authorization": "Basic ???"})
        assert garbage.status_code == 401


async def test_every_answer_forbids_foreign_scripts_and_caching(face: Face) -> None:
    async with face.client() as client:
        await sign_in(client)
        for path in (
            "/license-key",
            "/smart",
            "/status.json",
            "/style.css",
            "/live.js",
            "/nothing",
        ):
            answer = await client.get(path)
            assert answer.status_code == (404 if path == "/nothing" else 200)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"\son\w+=|style=|<script>|<style", answer.text), path
        assert (await client.get("/", follow_redirects=False)).headers["location"] == "/license-key"
        assert (await client.post("/license-key")).status_code == 405


async def test_a_core_that_is_away_is_said_on_the_page(face: Face) -> None:
    async with face.client() as client:
        await sign_in(client)
        await face.control.stop()
        face.app.state.door._config = None
        page = await client.get("/license-key")
        assert page.status_code == 503
        assert "The device's core does not answer: No device runs" in page.text
        assert (await client.get("/status.json")).json()["code"] == "not_running"
        await face.control.start()
        assert (await client.get("/license-key")).status_code == 200, "still signed in"


def test_a_session_ends_when_it_is_not_used_and_at_last_in_any_case() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    cookie = sessions.open("anna", "192.0.2.1")
    now[0] = 599.0
    assert sessions.find(cookie, 600.0) is not None
    now[0] = 1198.0
    assert sessions.find(cookie, 600.0, use=False) is not None
    now[0] = 1200.0
    assert sessions.find(cookie, 600.0) is None, "a page that refreshes itself keeps nobody in"
    cookie = sessions.open("anna", "192.0.2.1")
    for _ in range(200):
        now[0] += 500.0
        alive = sessions.find(cookie, 600.0)
    assert alive is None
    assert now[0] - 1200.0 > LIFE
    assert sessions.find("forged", 600.0) is None


def test_sessions_are_bounded_and_the_one_not_used_longest_ends() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.open("anna", "")
    second = sessions.open("anna", "")
    now[0] = 1.0
    sessions.find(first, 600.0)
    for _ in range(MAX_SESSIONS - 1):
        sessions.open("eva", "")
    assert sessions.find(first, 600.0) is not None
    assert sessions.find(second, 600.0) is None
