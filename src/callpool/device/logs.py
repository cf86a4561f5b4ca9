"""How a device's processes log."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_log() -> None:
    """Log to standard error, one JSON object a line; no secret is ever an argument."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
