"""The public numberings of states and modes: separate maps, for their numbers differ.

USP-MIB is CISCO-USP-MIB, SLA-MIB CISCO-SMART-LIC-MIB, YANG cisco-smart-license.yang 2019-07-01
(P; `facts/smart-licensing.md` 2.1, 3.5 and 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from callpool.licensing.smart import Enforcement as Mode
from callpool.licensing.smart import Registration, State

#: USP-MIB `cuspSmartAgentState`.
USP_AGENT_STATE: Final[Mapping[State, int]] = {
    State.UNCONFIGURED: 1,
    State.UNIDENTIFIED: 2,
    State.EVAL_EXPIRED: 3,
    State.REGISTERED: 4,
    State.OUT_OF_COMPLIANCE: 5,
    State.AUTHORIZED: 6,
    State.AUTHORIZATION_EXPIRED: 7,
    State.TRANSIENT: 8,
}

#: USP-MIB `cuspLicenseState`.
USP_LICENSE_STATE: Final[Mapping[Mode, int]] = {
    Mode.WAITING: 1,
    Mode.OVERAGE: 2,
    Mode.OUT_OF_COMPLIANCE: 3,
    Mode.NOT_APPLICABLE: 4,
    Mode.INVALID_TAG: 5,
    Mode.INVALID: 6,
    Mode.INIT: 7,
    Mode.IN_COMPLIANCE: 8,
    Mode.EVALUATION_EXPIRED: 9,
    Mode.EVALUATION: 10,
    Mode.DISABLED: 11,
    Mode.AUTHORIZATION_EXPIRED: 12,
}

#: SLA-MIB `ciscoSlaEntitlementEnforceMode`.
SLA_ENFORCE_MODE: Final[Mapping[Mode, int]] = {
    Mode.INIT: 1,
    Mode.WAITING: 2,
    Mode.IN_COMPLIANCE: 3,
    Mode.OUT_OF_COMPLIANCE: 4,
    Mode.OVERAGE: 5,
    Mode.EVALUATION: 6,
    Mode.EVALUATION_EXPIRED: 7,
    Mode.AUTHORIZATION_EXPIRED: 8,
    Mode.DISABLED: 10,
    Mode.INVALID_TAG: 12,
    Mode.INVALID: 13,
    Mode.NOT_APPLICABLE: 14,
}

#: SLA-MIB `ciscoSlaAuthComplianceStatus`: free text. Seen in public: AUTHORIZED, OUT OF COMPLIANCE,
#: EVAL MODE (P, facts 3.6); the others follow them (D).
SLA_COMPLIANCE: Final[Mapping[Mode, str]] = {
    Mode.INIT: "NO LICENSES IN USE",
    Mode.WAITING: "WAITING",
    Mode.IN_COMPLIANCE: "AUTHORIZED",
    Mode.OUT_OF_COMPLIANCE: "OUT OF COMPLIANCE",
    Mode.OVERAGE: "OVERAGE",
    Mode.EVALUATION: "EVAL MODE",
    Mode.EVALUATION_EXPIRED: "EVAL EXPIRED",
    Mode.AUTHORIZATION_EXPIRED: "AUTHORIZATION EXPIRED",
    Mode.DISABLED: "DISABLED",
    Mode.INVALID_TAG: "INVALID TAG",
    Mode.INVALID: "NOT AUTHORIZED",
    Mode.NOT_APPLICABLE: "NOT APPLICABLE",
}

#: YANG `enforcement-mode`; what it lacks has no number.
YANG_ENFORCEMENT_MODE: Final[Mapping[Mode, int]] = {
    Mode.WAITING: 0,
    Mode.IN_COMPLIANCE: 1,
    Mode.OUT_OF_COMPLIANCE: 2,
    Mode.OVERAGE: 3,
    Mode.EVALUATION: 4,
    Mode.EVALUATION_EXPIRED: 5,
    Mode.AUTHORIZATION_EXPIRED: 6,
    Mode.INVALID_TAG: 8,
    Mode.DISABLED: 9,
}

#: SLA-MIB `ciscoSlaRegistrationStatus`.
SLA_REGISTRATION: Final[Mapping[Registration, int]] = {
    Registration.NOT_REGISTERED: 1,
    Registration.IN_PROGRESS: 2,
    Registration.FAILED: 3,
    Registration.RETRY: 4,
    Registration.COMPLETE: 5,
}

#: YANG `registration-state`.
YANG_REGISTRATION: Final[Mapping[Registration, int]] = {
    Registration.NOT_REGISTERED: 0,
    Registration.COMPLETE: 1,
    Registration.IN_PROGRESS: 2,
    Registration.RETRY: 3,
    Registration.FAILED: 4,
}

#: YANG `authorization-state`; a configured count of 0 is `none` (0) in every state.
YANG_AUTHORIZATION: Final[Mapping[State, int]] = {
    State.UNCONFIGURED: 0,
    State.UNIDENTIFIED: 1,
    State.REGISTERED: 1,
    State.EVAL_EXPIRED: 2,
    State.AUTHORIZED: 3,
    State.OUT_OF_COMPLIANCE: 5,
    State.AUTHORIZATION_EXPIRED: 6,
}
