from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from device_world import VENDOR, local_key

from callpool.device.errors import DeviceError
from callpool.device.flash import Flash
from callpool.device.record import open_record
from callpool.device.settings import Layout, Settings, read_token
from callpool.device.setup import Plan, destination, install_offline, set_up
from callpool.host.addresses import address
from callpool.licensing.errors import CallpoolError
from callpool.wire.tokens import join

GOOD: dict[str, Any] = {"serial": "S1", "vendor_key": VENDOR.public.text}


def test_a_device_is_made_whole_with_private_files(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "d")
    plan = Plan(
        **GOOD,
        manager="https://m",
        token=join("secret", "kid"),
        key=local_key(sbc_sessions=7),
        listen=("udp:192.0.2.1:5060",),
        destinations=("+49=192.0.2.9:5070;tcp", "pbx.example.net:5060"),
        trusted=("192.0.2.0/24",),
        gate={"workers": 2, "listen": ["udp:127.0.0.1:1"]},
        pages="127.0.0.1:8443",
    )
    settings = set_up(layout, plan)
    assert layout.load() == settings
    assert settings.gate["listen"] == ["udp:192.0.2.1:5060"]
    assert settings.gate["workers"] == 2
    assert settings.gate["destinations"][0] == {
        "prefix": "+49",
        "host": "192.0.2.9",
        "port": 5070,
        "transport": "tcp",
    }
    for file in (layout.secret, layout.gate_secret, layout.identity, layout.token):
        assert file.stat().st_mode & 0o777 == 0o600, file
    assert layout.root.stat().st_mode & 0o777 == 0o700
    assert read_token(layout.token) == join("secret", "kid")
    record = Flash(layout.flash, layout.load_secret()).load()
    assert record is not None
    assert open_record(record, settings).license.local.get("sbc_sessions") == 7
    assert "secret" not in repr(plan)
    for file in (layout.settings, layout.journal):
        assert not file.exists() or "secret" not in file.read_text()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"serial": "a b"}, "bad_serial"),
        ({"manager": "http://m"}, "bad_manager_url"),
        ({"token": "callpool1.a.b"}, "no_manager"),
        ({"key": "rubbish"}, "bad_envelope"),
        ({"key": local_key(serial="S2")}, "key_for_another_serial"),
        ({"key": local_key(), "vendor_key": ""}, "unknown_signer"),
        ({"vendor_key": "short"}, "bad_key"),
        ({"maximum": {"calls": 1}}, "unknown_license_type"),
        ({"listen": ("tcp:127.0.0.1:5060",)}, "bad_gate_settings"),
        ({"gate": {"colour": "red"}}, "bad_gate_settings"),
        ({"gate": {"workers": "many"}}, "bad_gate_settings"),
        ({"destinations": ("nowhere",)}, "bad_destination"),
        ({"pages": "nowhere"}, "bad_address"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    layout = Layout(tmp_path / "d")
    with pytest.raises(CallpoolError) as caught:
        set_up(layout, Plan(**{**GOOD, **changes}))
    assert caught.value.code == code
    assert not layout.root.exists()


def test_a_half_made_directory_is_no_device_and_may_be_made_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "d")
    layout.create()
    with pytest.raises(DeviceError) as caught:
        layout.load()
    assert caught.value.code == "no_device"
    set_up(layout, Plan(**GOOD))
    with pytest.raises(DeviceError) as caught:
        set_up(layout, Plan(**GOOD))
    assert caught.value.code == "device_exists"


def test_a_key_can_be_installed_while_the_device_is_off(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "d")
    set_up(layout, Plan(**GOOD))
    assert install_offline(layout, local_key(4, sbc_sessions=9)) == "LK-4"
    with pytest.raises(CallpoolError) as caught:
        install_offline(layout, local_key(3, sbc_sessions=99))
    assert caught.value.code == "older_key"


def test_settings_that_were_damaged_are_named(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "d")
    settings = set_up(layout, Plan(**GOOD))
    for text in ("{", '{"serial": 5}', '{"serial": "S1", "colour": "red"}'):
        layout.settings.write_text(text)
        with pytest.raises(DeviceError) as caught:
            layout.load()
        assert caught.value.code == "bad_settings"
    layout.write(settings)
    layout.secret.unlink()
    with pytest.raises(DeviceError) as caught:
        layout.load_secret()
    assert caught.value.code == "no_secret"
    layout.identity.unlink()
    with pytest.raises(DeviceError) as caught:
        layout.load_identity()
    assert caught.value.code == "no_identity"


@pytest.mark.parametrize("bad", ["", "host", ":5", "h:", "h:x", "h:70000", "h:-1"])
def test_an_address_is_host_and_port(bad: str) -> None:
    assert address("[::1]:8443") == ("::1", 8443)
    with pytest.raises(CallpoolError):
        address(bad)
    with pytest.raises(CallpoolError):
        destination(bad)


def test_settings_name_no_secret(tmp_path: Path) -> None:
    settings = set_up(Layout(tmp_path / "d"), Plan(**GOOD))
    assert set(Settings.__struct_fields__) == set(msgspec.to_builtins(settings))
    assert not {"token", "secret", "password"} & set(Settings.__struct_fields__)
