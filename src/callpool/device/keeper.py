"""Keeps the faces up: processes of their own, started and watched by the core's."""

from __future__ import annotations

import sys
from pathlib import Path

from callpool.device.core import Core
from callpool.host.keeper import Keeper


class Faces(Keeper):
    """Faces: a process of their own, whose load and death never touch the core."""

    def __init__(self, root: Path, core: Core, module: str = "callpool.device.faces") -> None:
        """Run `module` for the device in `root` once started."""
        super().__init__(
            (sys.executable, "-m", module, str(root)),
            ended=lambda status: core.note("faces_ended", status=status, module=module),
        )
