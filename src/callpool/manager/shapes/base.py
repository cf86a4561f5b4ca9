"""What all forms are made of."""

from __future__ import annotations

import msgspec

#: Counts per license type.
Counts = dict[str, int]


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of forms: a field that is not named here is in no answer."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A refusal (RFC 9457): `code` is stable, `detail` one sentence for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class Named(Shape, frozen=True, kw_only=True):
    """The name of what was changed."""

    name: str


class Numbered(Shape, frozen=True, kw_only=True):
    """The number of what was changed."""

    id: int


class Secret(Shape, frozen=True, kw_only=True):
    """A token that was made; it is shown this once."""

    id: int
    token: str
