"""Seeing it in advance: the real rules of `licensing/` on virtual time, and nothing else."""
