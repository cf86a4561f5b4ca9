"""The OpenAPI 3.1 document of the operators' API, made of what each route declares.

The structs that bodies and queries are read by, and the forms that answers are held to, become its
schemas (msgspec writes them); the permission, the headers and the codes of refusals come from the
same declarations that the guard and `doors` go by. The framework would make a document of handler
signatures; ours read bounded bodies themselves and answer in one place, so their signatures say
nothing.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from callpool import __version__
from callpool.manager.access import COOKIE
from callpool.manager.codes import BY_STATUS
from callpool.manager.declare import JSON, Declared, declared
from callpool.manager.guard import CSRF_HEADER
from callpool.manager.idempotency import KEPT_SECONDS, REPLAYED
from callpool.manager.roles import PUBLIC
from callpool.manager.shapes.base import Problem
from callpool.manager.shapes.preview import Preview
from callpool.manager.web import MAX_BODY, PROBLEM

PATH: Final = "/api/v1/openapi.json"
_PREFIX: Final = "/api/v1"
_REF: Final = "#/components/schemas/{name}"
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"cookie": []}, {"basic": []}]
_SAYS: Final = {
    400: "The request is not in order.",
    401: "Nobody is signed in, or not any more.",
    403: "Whoever asks may not.",
    404: "There is no such thing, or none that the asker sees.",
    409: "A rule refuses it as things are.",
    412: "It was changed since it was read (If-Match).",
    413: f"The body is longer than {MAX_BODY} bytes.",
    415: "The body is of another content type.",
    422: "The idempotency key was used for another change.",
    429: "Too many failed sign-ins.",
    500: "The manager failed; its log says why.",
    503: "Not now; Retry-After says when.",
}


def document(app: Litestar) -> dict[str, Any]:
    """Return the document of all routes below `/api/v1`."""
    found = [
        (path, handler)
        for path, handler in _handlers(app)
        if path.startswith(_PREFIX) and declared(handler).answer is not None
    ]
    schemas = _Schemas(declared(handler) for _, handler in found)
    paths: dict[str, dict[str, Any]] = {}
    for path, handler in found:
        (method,) = handler.http_methods - {"HEAD"}
        name = re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
        operation = _operation(path, method, handler, schemas)
        paths.setdefault(name, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "callpool manager",
            "version": __version__,
            "description": "The operators' API of a callpool manager. Times are seconds since "
            "1970 by the manager's clock. Every refusal is a problem document (RFC 9457) with a "
            "stable code, and changes nothing.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {str(status): _refusal(status) for status in _SAYS},
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of a session (`POST /sessions`), or an API token.",
                },
                "basic": {"type": "http", "scheme": "basic"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": f"A browser's session. A change needs {CSRF_HEADER} as well.",
                },
            },
        },
    }


_HEADERS: Final = {
    "ETag": {
        "description": "What was read, for `If-Match`.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Replayed": {
        "description": "The change was made before, under this idempotency key.",
        "schema": {"const": "true"},
    },
}


def _handlers(app: Litestar) -> Iterable[tuple[str, HTTPRouteHandler]]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if handler.http_methods != {"OPTIONS"}:
                yield route.path, handler


class _Schemas:
    """The schemas of every type that is declared, made once together."""

    def __init__(self, routes: Iterable[Declared]) -> None:
        named: list[Any] = [Problem, Preview]
        queries = set()
        for route in routes:
            if route.query is not None:
                queries.add(route.query.__name__)
            for kind in (route.answer, route.body, route.query):
                named += [k for k in _parts(kind) if k is not None and k not in named]
        made, components = msgspec.json.schema_components(named, ref_template=_REF)
        self._made = dict(zip(map(repr, named), made, strict=True))
        #: The schemas that others refer to; queries are told parameter by parameter.
        self.components = {k: v for k, v in components.items() if k not in queries}
        self.components["Problem"]["properties"]["type"] = {"const": "about:blank"}
        self._all = components

    def of(self, kind: Any) -> dict[str, Any]:
        parts = [self._made[repr(k)] for k in _parts(kind)]
        return dict(parts[0]) if len(parts) == 1 else {"anyOf": parts}

    def query(self, kind: Any) -> list[dict[str, Any]]:
        schema = self._all[kind.__name__]
        return [
            {"name": name, "in": "query", "required": False, "schema": said}
            for name, said in schema["properties"].items()
        ]


def _parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, which may be two structs: msgspec makes one of each."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _operation(
    path: str, method: str, handler: HTTPRouteHandler, schemas: _Schemas
) -> dict[str, Any]:
    route = declared(handler)
    said = inspect.getdoc(handler.fn) or ""
    summary, _, more = said.partition("\n\n")
    changes = method != "GET"
    operation: dict[str, Any] = {
        "operationId": _name(handler),
        "summary": summary.replace("\n", " "),
        "tags": [path.removeprefix(_PREFIX).strip("/").partition("/")[0]],
        "x-permission": route.needs,
        "security": [] if route.needs == PUBLIC else _SECURITY,
        "parameters": _parameters(path, route, schemas, changes=changes),
        "responses": _responses(handler, route, schemas, changes=changes),
    }
    if more:
        operation["description"] = more
    if route.body is not None or route.files:
        content = {kind: {"schema": {"type": "string"}} for kind in sorted(route.files)}
        if route.body is not None:
            content[JSON] = {"schema": schemas.of(route.body)}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _name(handler: HTTPRouteHandler) -> str:
    room = handler.fn.__module__.rpartition(".")[2].removesuffix("_api")
    return f"{room}_{handler.fn.__name__}"


def _parameters(
    path: str, route: Declared, schemas: _Schemas, *, changes: bool
) -> list[dict[str, Any]]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _NUMBER if kind == "int" else _TEXT,
        }
        for name, kind in re.findall(r"\{(\w+):(\w+)\}", path)
    ]
    if route.query is not None:
        found += schemas.query(route.query)
    if route.previews:
        schema = {"enum": ["false", "true"], "default": "false"}
        found.append({"name": "preview", "in": "query", "required": False, "schema": schema})
    if changes and route.once:
        found.append(_header("Idempotency-Key", {"type": "string", "pattern": _KEY}, _ONCE))
    if route.matches:
        found.append(_header("If-Match", {"type": "string"}, "The ETag of what was read."))
    return found


_TEXT: Final = {"type": "string", "minLength": 1}
_NUMBER: Final = {"type": "integer", "minimum": 0, "maximum": 2**53}
_KEY: Final = r"^[\x21-\x7e]{8,255}$"
_ONCE: Final = (
    "The change is made once for each key of an operator; asked again it has the same answer, for "
    f"{KEPT_SECONDS / 3600:.0f} hours."
)


def _header(name: str, schema: dict[str, Any], said: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "schema": schema,
        "description": said,
    }


def _responses(
    handler: HTTPRouteHandler, route: Declared, schemas: _Schemas, *, changes: bool
) -> dict[str, Any]:
    schema = schemas.of(route.answer)
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in route.also}
    done: dict[str, Any] = {"description": "Done." if changes else "Found."}
    headers = {}
    if route.tagged:
        headers["ETag"] = {"$ref": "#/components/headers/ETag"}
    if changes and route.once:
        headers[REPLAYED] = {"$ref": "#/components/headers/Replayed"}
    if headers:
        done["headers"] = headers
    status = str(handler.status_code)
    found: dict[str, Any] = {status: done | {"content": {JSON: {"schema": schema}, **content}}}
    if route.previews:
        preview = schemas.of(Preview)
        if status == "200":
            schema = {"anyOf": [schema, preview]}
            found["200"]["content"][JSON]["schema"] = schema
        else:
            found["200"] = {
                "description": "What it would do (`preview=true`).",
                "content": {JSON: {"schema": preview}},
            }
    refused = {400, 404, 500, 503}
    if route.needs != PUBLIC:
        refused |= {401, 403, 429}
    if changes:
        refused |= {403, 409} | ({422} if route.once else set())
    if route.needs == PUBLIC and changes:
        refused |= {401, 429}
    if route.body is not None or route.files:
        refused |= {413, 415}
    if route.matches:
        refused.add(412)
    for code in sorted(refused):
        found[str(code)] = {"$ref": f"#/components/responses/{code}"}
    return found


def _refusal(status: int) -> dict[str, Any]:
    codes = {"properties": {"code": {"enum": list(BY_STATUS[status])}, "status": {"const": status}}}
    return {
        "description": _SAYS[status],
        "content": {PROBLEM: {"schema": {"allOf": [{"$ref": _REF.format(name="Problem")}, codes]}}},
    }
