"""Fixtures of this layer; they are written, and typed, in lawkit.py."""

from lawkit import make_lab

__all__ = ["make_lab"]
