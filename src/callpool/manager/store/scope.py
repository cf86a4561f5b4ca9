"""Whose things a transaction sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: How a statement says which of its columns names the tenant that a row belongs to.
_MINE: Final = re.compile(r" AND MINE\(([a-z_.]+)\)")
_WITHIN: Final = (
    r" AND \1 IN (SELECT tenant_id FROM operator_tenant WHERE username = :scope_operator)"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Everything, or what belongs to an operator's tenants.

    A statement that an operator's answer is made of says ` AND MINE(column)`: the narrowing stands
    in the query itself, so what another tenant has never leaves the database.
    """

    #: The operator whose tenants are seen; empty for everything.
    operator: str = ""

    @property
    def whole(self) -> bool:
        """Tell whether everything is seen."""
        return not self.operator

    def narrowed(self, statement: str) -> str:
        """Return a statement with its MINE in force, or without it where everything is seen."""
        return _MINE.sub("" if self.whole else _WITHIN, statement)


#: Everything.
WHOLE: Final = Scope()
