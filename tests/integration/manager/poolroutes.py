"""The routes of the manager, as the application has them."""

from __future__ import annotations

from managerkit import Site

from callpool.manager.app import build
from callpool.manager.core import Manager

PASSWORD = "a long enough word 7"


def routes_of(site: Site) -> list[tuple[str, str]]:
    """Return (method, path) of every route, but for the framework's own OPTIONS."""
    manager = Manager(site.layout)
    app = build(manager, 443)
    manager.close()
    return [
        (method, route.path_format)
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        for method in handler.http_methods - {"OPTIONS", "HEAD"}
    ]
