"""Settings are rendered in a configuration file: nothing that could inject gets in."""

from __future__ import annotations

from typing import Any

import pytest

from callpool.device.gate.policy import render
from callpool.device.gate.render import full_config, local_parameters
from callpool.device.gate.settings import Destination, GateError, GateSettings, Refusal
from callpool.licensing.admission import AdmissionPolicy, Step

GOOD: dict[str, Any] = {
    "directory": "/tmp/g",
    "listen": ("udp:127.0.0.1:5060",),
    "mac_secret": "ab" * 16,
}


@pytest.mark.parametrize(
    "more",
    [
        {"directory": '/tmp/a"\nloadmodule'},
        {"directory": "/" + "d" * 100},
        {"listen": ()},
        {"listen": ("tcp:127.0.0.1:5060",)},
        {"listen": ("udp:127.0.0.1:5060\nlisten=x",)},
        {"listen": ("udp:999.0.0.1:5060",)},
        {"listen": ("udp:127.0.0.1:0",)},
        {"trusted_peers": ("127.0.0.1) { exit; }",)},
        {"destinations": (Destination(host='x"; exit; #'),)},
        {"destinations": (Destination(host="ok", prefix='1")'),)},
        {"destinations": (Destination(host="ok", port=70000),)},
        {"users": {"a!b": "0" * 32}},
        {"users": {"a": "notahash"}},
        {"realm": 'r"'},
        {"host": "h\r\nEvil: 1"},
        {"emergency_numbers": ('112" || 1',)},
        {"refusals": {"session_limit": Refusal(code=200)}},
        {"refusals": {"Bad Reason": Refusal()}},
        {"refusals": {"session_limit": Refusal(retry_after=0)}},
        {"mac_secret": "short"},
        {"mac_secret": "!" * 32},
        {"workers": 0},
        {"shared_memory_mb": 1},
        {"listen": ("udp:127.0.0.1:5060", "tls:127.0.0.1:5061")},
        {"tls_certificate": '/x"y'},
        {"mode": "external"},
    ],
)
def test_what_cannot_stand_in_a_configuration_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(GateError) as caught:
        GateSettings(**{**GOOD, **more})
    assert caught.value.code == "bad_gate_settings"


def test_secrets_stand_only_in_the_private_files() -> None:
    s = GateSettings(**GOOD, users={"bob": "f" * 32})
    assert s.mac_secret not in full_config(s)
    assert "f" * 32 not in full_config(s)
    assert s.mac_secret in local_parameters(s, core_port=1, token="tok")


def test_ends_are_what_is_left_of_them_on_kamailios_clock() -> None:
    s = GateSettings(**GOOD)
    policy = AdmissionPolicy(
        steps=(
            Step(until=100.0, caps={"sbc_sessions": 1}),
            Step(until=1060.5, caps={"sbc_sessions": 2, "cps": 3}),
            Step(admit=False, reason="lease_ended"),
        )
    )
    # The lab's clock stands at 1000, the real one at 5000, Kamailio's tick at 70.
    text = render(policy, s, now=1000.0, real=5000.0, tick=70)
    assert text == "5060;500;131;1;2;-1;3;;503;0;/0;0;0;0;-1;-1;-1;lease_ended;503;0;lease ended"
    fast = render(policy, s, now=1000.0, real=5000.0, tick=70, real_seconds=lambda x: x / 60)
    assert fast.startswith("5001;8;72;")
