"""A Smart Agent's notices as syslog names them: `%SMART_LIC-SEVERITY-MNEMONIC: text`.

The mnemonics of `_PUBLIC`, with their severities and texts, are seen in public syslog (P, facts
section 3.7). For every other notice none is known: ours has the same shape, its name made of the
notice's (D). `Mnemonic.public` tells which is which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from callpool.licensing.smart import Enforcement
from callpool.licensing.smart_notices import ERROR, INFORMATIONAL, WARNING

FACILITY: Final = "SMART_LIC"

#: Severities of notices as syslog numbers them.
_SEVERITY: Final[Mapping[str, int]] = {ERROR: 3, WARNING: 4, INFORMATIONAL: 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mnemonic:
    """What a notice is called in syslog."""

    name: str
    #: 0 to 7, as syslog numbers it.
    severity: int
    #: The text where the notice has no sentence of its own.
    text: str
    public: bool = False

    def __str__(self) -> str:
        """Return `%SMART_LIC-6-AGENT_READY`."""
        return f"%{FACILITY}-{self.severity}-{self.name}"


def _public(name: str, severity: int, text: str) -> Mnemonic:
    return Mnemonic(name=name, severity=severity, text=text, public=True)


_PUBLIC: Final[Mapping[str, Mnemonic]] = {
    "Ready": _public("AGENT_READY", 6, "Smart Agent for Licensing is initialized"),
    "Enabled": _public("AGENT_ENABLED", 6, "Smart Agent for Licensing is enabled"),
    "RegisterFailed": _public("AGENT_REG_FAILED", 3, "Registration failed"),
    "AuthRenewFail": _public("AUTH_RENEW_FAILED", 3, "Authorization renewal failed"),
    "CommunicationFailure": _public("COMM_FAILED", 3, "Communications failure"),
    "CommunicationRestored": _public("COMM_RESTORED", 5, "Communications restored"),
    "SystemClockChanged": _public("SYSTEM_CLOCK_CHANGED", 5, "System clock has been changed"),
    "EvalExpired": _public("EVAL_EXPIRED", 3, "Evaluation period expired"),
}
_EVAL_START: Final = _public("EVAL_START", 5, "Entering evaluation period")
#: How a notice of the enforcement mode ends where it is entered by evaluation.
_ENTERED: Final = f", {Enforcement.EVALUATION.value}"


def mnemonic(name: str, severity: str, sentence: str) -> Mnemonic:
    """Return what the notice `name` is called; `severity` is its word, in small letters."""
    if name == "EnforcementMode" and sentence.endswith(_ENTERED):
        return _EVAL_START
    found = _PUBLIC.get(name)
    if found is not None:
        return found
    words = re.findall(r"[A-Z][a-z]*|[a-z]+|\d+", name) or ["NOTICE"]
    return Mnemonic(
        name="_".join(words).upper(),
        severity=_SEVERITY.get(severity, 5),
        text=" ".join(words).capitalize(),
    )
