"""Typed errors: a stable code for machines and one sentence for people."""

from __future__ import annotations


class CallpoolError(Exception):
    """Base of every error that a person or a program may be shown.

    `code` is stable across releases; the sentence says what to do. Subclasses of other
    floors may add their own codes: the code, not the class, is the contract.
    """

    def __init__(self, code: str, sentence: str) -> None:
        """Make an error with its stable `code` and the `sentence` to show."""
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class LicenseError(CallpoolError):
    """A rule of licensing refuses: the request changes nothing."""


class TrustError(CallpoolError):
    """Something that arrived is not what it claims to be (law 4): it changes nothing."""
