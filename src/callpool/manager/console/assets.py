"""What pages load: our style and scripts, and third-party files that the build copies here.

Nothing comes from another host. An address carries its content's hash, so a browser keeps each
file for good and never mixes two releases.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from callpool.licensing.errors import CallpoolError

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: All that pages load, in the order of loading.
FILES: Final = (
    "vendor/uPlot.min.css",
    "console.css",
    "vendor/htmx.min.js",
    "vendor/sse.js",
    "vendor/idiomorph-ext.min.js",
    "vendor/uPlot.iife.min.js",
    "console.js",
    "chart.js",
    "icon.svg",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file, as it is served."""

    content: bytes
    media_type: str
    #: Its address, with the content's hash.
    url: str


def load(directory: Path = _STATIC) -> dict[str, Asset]:
    """Read every file; raises CallpoolError `console_files_missing`."""
    found = {}
    for name in FILES:
        try:
            content = (directory / name).read_bytes()
        except OSError as error:
            raise CallpoolError(
                "console_files_missing",
                f"The console's file {name} is missing; mend it with: scripts/setup",
            ) from error
        digest = hashlib.sha256(content).hexdigest()[:16]
        found[name] = Asset(
            content=content,
            media_type=_TYPES[Path(name).suffix],
            url=f"/static/{name}?v={digest}",
        )
    return found
