"""The door to the OpenAPI document itself: everybody may read how the API is spoken to."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get

from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest
from callpool.manager.openapi import PATH, document
from callpool.manager.roles import PUBLIC
from callpool.manager.web import JSON, in_thread


@get(PATH, opt=api(PUBLIC, answer=dict[str, Any]))
async def show_openapi(request: AnyRequest) -> Answer:
    """Show the OpenAPI document."""
    app = request.app
    if "openapi" not in app.state:
        app.state.openapi = await in_thread(lambda: msgspec.json.encode(document(app)))
    return Response(app.state.openapi, media_type=JSON)


HANDLERS = (show_openapi,)
