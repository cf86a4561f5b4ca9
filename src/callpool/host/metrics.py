"""Metrics for both programs: a scrape's answer, its families, a scraper's token."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError

#: Label values and what was counted or measured.
Samples = Iterable[tuple[Sequence[str], float]]

#: Bytes of a scrape token.
_TOKEN_BYTES: Final = 32


class Once(Collector):
    """Families that are worked out already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        """Collect `families`."""
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


def gauge(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    """Return what can rise and fall."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def one(name: str, text: str, number: float) -> Metric:
    """Return a single number without labels."""
    return gauge(name, text, [((), number)])


def counter(name: str, text: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    """Return what only rises; the name is given without `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    """Return a 1 that carries names; the name ends in `_info`."""
    return gauge(name, text, [(list(labels.values()), 1)], list(labels))


def answer(accept: str, *collectors: Collector) -> tuple[bytes, str]:
    """Return a scrape's body and its content type, as the scraper's Accept header prefers."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def make_token(file: Path) -> str:
    """Write a new scrape token, mode 0600, and return it; raises OSError."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    write_durably(file, token.encode() + b"\n")
    return token


def check_token(file: Path, header: str) -> None:
    """Compare an Authorization header with the scrape token, in constant time.

    Raises CallpoolError `metrics_off` where there is no token, `bad_metrics_token`.
    """
    try:
        token = file.read_bytes().strip()
    except FileNotFoundError:
        token = b""
    if not token:
        raise CallpoolError(
            "metrics_off", "No scrape token was made yet: `callpool device metrics token`."
        )
    scheme, _, said = header.partition(" ")
    same = hmac.compare_digest(said.strip().encode(), token)
    if scheme.lower() != "bearer" or not same:
        raise CallpoolError("bad_metrics_token", "Send the scrape token as a bearer token.")
