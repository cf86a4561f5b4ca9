"""The gate: Kamailio's call handling, and the driver that tells it what may be admitted.

Every INVITE and REGISTER is judged inside Kamailio by `callpool.cfg`; nothing here stands on
a call's path.
"""

from callpool.device.gate.clocks import Clock, Reading
from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.settings import Destination, GateError, GateSettings, Refusal
from callpool.device.gate.usage import Usage

__all__ = [
    "Clock",
    "Destination",
    "GateError",
    "GateSettings",
    "KamailioGate",
    "Reading",
    "Refusal",
    "Usage",
]
