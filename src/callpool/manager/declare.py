"""What a route declares: the permission it needs, and what it takes and answers.

    @get("/api/v1/orders", opt=api("supply.read", answer=Orders))

One declaration serves the guard, the reading of bodies and queries, and the OpenAPI document, so
that none of them can say another thing than the others. A route without one stops the manager
from starting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar.handlers import BaseRouteHandler

from callpool.manager.roles import DEVICE, PERMISSIONS, PUBLIC

_KEY: Final = "callpool"
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The declaration of one route."""

    #: A permission of `roles.PERMISSIONS`, or PUBLIC or DEVICE.
    needs: str
    #: The type of the JSON answer.
    answer: Any = None
    #: Further content types of the answer, such as `text/csv`.
    also: tuple[str, ...] = ()
    #: The type of the JSON body.
    body: Any = None
    #: Content types of a body that is no JSON, or JSON as well.
    files: tuple[str, ...] = ()
    #: The struct of the query's parameters: each a text, a number or a flag, with a default.
    query: Any = None
    #: Whether the change can be previewed by `?preview=true`.
    previews: bool = False
    #: Whether the change heeds `If-Match`, and whether the answer has an `ETag` for it.
    matches: bool = False
    tagged: bool = False
    #: Whether the change heeds `Idempotency-Key`.
    once: bool = True

    @property
    def parameters(self) -> frozenset[str]:
        """The names that a query may have."""
        asked = msgspec.structs.fields(self.query) if self.query is not None else ()
        names = {field.encode_name for field in asked}
        return frozenset(names | {"preview"} if self.previews else names)


def api(needs: str, **what: Any) -> dict[str, Any]:
    """Return the `opt` of a route; raises ValueError for a permission that there is not."""
    if needs not in PERMISSIONS and needs not in (PUBLIC, DEVICE):
        raise ValueError(f"there is no permission {needs!r}")
    return {_KEY: Declared(needs=needs, **what)}


def declared(handler: BaseRouteHandler) -> Declared:
    """Return a route's declaration; raises LookupError where it has none."""
    found = handler.opt.get(_KEY)
    if not isinstance(found, Declared):
        raise LookupError(f"{handler} declares no permission: give it opt=api(...)")
    return found
