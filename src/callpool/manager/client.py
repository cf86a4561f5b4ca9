"""A client of the operators' API, for the command line and for scripts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from callpool.licensing.errors import CallpoolError
from callpool.wire.messages import CONTENT_TYPE

#: Seconds to wait for an answer.
_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the manager is, and who asks."""

    #: The manager's URL.
    url: str
    #: The file of its certificate authority; empty for the system's own.
    ca_file: str
    username: str
    password: str
    #: A session's or an API token, in place of name and password.
    token: str = ""

    def __repr__(self) -> str:
        return f"Connection({self.url}, {self.username})"


def find_connection(*, manager: str, ca_file: str, username: str, lab: str) -> Connection:
    """Return the connection from options, the environment, or a lab's `lab.json`.

    A password is taken from CALLPOOL_PASSWORD, a token from CALLPOOL_TOKEN, or from the lab;
    never from the command line.
    Raises CallpoolError `no_manager_named`, `no_password`, `no_lab`.
    """
    lab = lab or os.environ.get("CALLPOOL_LAB", "")
    url = manager or os.environ.get("CALLPOOL_MANAGER", "")
    if lab and not url:
        file = Path(lab) / "lab.json"
        try:
            found = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])["manager"]
            return Connection(
                url=found["url"],
                ca_file=found["ca_file"],
                username=found["username"],
                password=found["password"],
            )
        except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
            raise CallpoolError("no_lab", f"{file} does not name a lab's manager.") from error
    if not url:
        raise CallpoolError(
            "no_manager_named",
            "Name the manager: --manager URL, CALLPOOL_MANAGER, or CALLPOOL_LAB for a lab.",
        )
    password = os.environ.get("CALLPOOL_PASSWORD", "")
    token = os.environ.get("CALLPOOL_TOKEN", "")
    if not password and not token:
        raise CallpoolError(
            "no_password",
            "Set the operator's password in CALLPOOL_PASSWORD, or a token in CALLPOOL_TOKEN.",
        )
    return Connection(
        url=url,
        ca_file=ca_file or os.environ.get("CALLPOOL_CA_FILE", ""),
        username=username or os.environ.get("CALLPOOL_USERNAME", "admin"),
        password=password,
        token=token,
    )


class ManagerClient:
    """One operator's client; close it, or use it in a `with`."""

    def __init__(self, connection: Connection) -> None:
        """Prepare the client; raises CallpoolError `bad_ca_file`."""
        self._url, self._who = connection.url, connection
        try:
            context = ssl.create_default_context(cafile=connection.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise CallpoolError(
                "bad_ca_file", f"{connection.ca_file} is not a readable CA certificate file."
            ) from error
        self._http = httpx.Client(
            base_url=connection.url,
            auth=None if connection.token else (connection.username, connection.password),
            headers={"Authorization": f"Bearer {connection.token}"} if connection.token else None,
            verify=context,
            timeout=_TIMEOUT,
            trust_env=False,
        )

    def __enter__(self) -> ManagerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def call(
        self, method: str, path: str, body: object = None, *, timeout: float = _TIMEOUT
    ) -> dict[str, Any]:
        """Call `/api/v1{path}` with a JSON body; returns the answer within `timeout` seconds.

        Raises CallpoolError with the manager's own code and sentence, or `no_answer`.
        """
        if body is None:
            return self._value(self._request(method, path, b"", {}, timeout))
        headers = {"Content-Type": "application/json"}
        return self._value(self._request(method, path, msgspec.json.encode(body), headers, timeout))

    def whole(self, path: str) -> dict[str, Any]:
        """Get a whole list, page by page; raises CallpoolError as `call`."""
        value = page = self.call("GET", path)
        while isinstance(page.get("next"), str):
            cursor = f"{'&' if '?' in path else '?'}cursor={page['next']}"
            page = self.call("GET", path + cursor)
            for name, found in page.items():
                if isinstance(found, list):
                    value[name] += found
            value["next"] = page["next"]
        return value

    def sign_in(self) -> dict[str, Any]:
        """Open a session by name and password; raises CallpoolError as `call`."""
        body = {"username": self._who.username, "password": self._who.password}
        raw = msgspec.json.encode(body)
        return self._send("POST", "/sessions", raw, {"Content-Type": "application/json"})

    def import_order(self, envelope: bytes, path: str = "/orders") -> dict[str, Any]:
        """Import an order file; raises CallpoolError as `call`."""
        return self._send("POST", path, envelope, {"Content-Type": CONTENT_TYPE})

    def send_file(self, path: str, content: bytes, content_type: str) -> dict[str, Any]:
        """Post a file to `/api/v1{path}`; raises CallpoolError as `call`."""
        return self._send("POST", path, content, {"Content-Type": content_type})

    def text(self, path: str) -> str:
        """Get `/api/v1{path}` as it is, such as CSV; raises CallpoolError as `call`."""
        reply = self._request("GET", path, b"", {})
        if not reply.is_success:
            self._value(reply)  # raises what it says
        return reply.text

    def _send(
        self, method: str, path: str, content: bytes, headers: dict[str, str]
    ) -> dict[str, Any]:
        return self._value(self._request(method, path, content, headers))

    def _request(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: dict[str, str],
        timeout: float = _TIMEOUT,
    ) -> httpx.Response:
        try:
            return self._http.request(
                method, f"/api/v1{path}", content=content or None, headers=headers, timeout=timeout
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallpoolError(
                "no_answer", f"The manager at {self._url} does not answer: {error}."
            ) from error

    def _value(self, reply: httpx.Response) -> dict[str, Any]:
        try:
            value = msgspec.json.decode(reply.content, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise CallpoolError(
                "no_answer", f"{self._url} answered {reply.status_code}, not as a manager does."
            ) from error
        if reply.is_success:
            return value
        raise CallpoolError(
            str(value.get("code", "refused")), str(value.get("detail", "The manager refused."))
        )
