"""What msgspec works out about a type at its first use, worked out before there are threads."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


def ready_for_threads() -> None:
    """Have msgspec work out all message types that are loaded.

    It does so when a type is first decoded, and where two threads are the first at once the
    process dies of a segmentation fault (msgspec 0.22, `tests/unit/host/test_structs.py`). So each
    process that decodes in threads calls this first, once its modules are loaded: some 35 ms.
    """
    for struct in _all(msgspec.Struct):
        msgspec.json.Decoder(struct)


def _all(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for struct in base.__subclasses__():
        yield struct
        yield from _all(struct)
