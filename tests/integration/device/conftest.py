"""Fixtures of this layer; they are written, and typed, in shellkit.py."""

from shellkit import pool, pool_shell, shells, smart, smart_shell

__all__ = ["pool", "pool_shell", "shells", "smart", "smart_shell"]
