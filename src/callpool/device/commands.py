"""`callpool device`: init, run, status, restart, pull, key, enrol, modes, users, reset, stop."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from callpool.device.alarm_commands import alarms
from callpool.device.control import ask
from callpool.device.errors import DeviceError
from callpool.device.metrics_commands import metrics_app
from callpool.device.modes import FLOATING_OFF
from callpool.device.options import AsJson, Directory, TokenFile, token_from
from callpool.device.pair_commands import pair_app
from callpool.device.reset import Outcome
from callpool.device.settings import DEFAULT_PAGES, Layout
from callpool.device.setup import Plan, install_offline, set_up
from callpool.device.smart_commands import smart_app
from callpool.device.snmp_commands import snmp_app
from callpool.device.ssh_commands import ssh_app
from callpool.device.status import Status
from callpool.device.status_text import show
from callpool.device.syslog_commands import syslog_app
from callpool.device.user_commands import user_app
from callpool.device.window import INSTANT
from callpool.host.console import counts_from, say
from callpool.licensing.errors import TrustError
from callpool.licensing.smart_policy import CCCSP_15
from callpool.wire.keys import PublicKey

device_app = typer.Typer(no_args_is_help=True, help="One device: its licenses and its gate.")
key_app = typer.Typer(no_args_is_help=True, help="The local license key.")
device_app.add_typer(key_app, name="key")
device_app.add_typer(smart_app, name="smart")
device_app.add_typer(snmp_app, name="snmp")
device_app.add_typer(ssh_app, name="ssh")
device_app.add_typer(user_app, name="user")
device_app.add_typer(syslog_app, name="syslog")
device_app.add_typer(metrics_app, name="metrics")
floating_app = typer.Typer(no_args_is_help=True, help="Floating licensing.")
device_app.add_typer(floating_app, name="floating")
device_app.add_typer(pair_app, name="pair")
device_app.command()(alarms)


@device_app.command()
def init(
    directory: Directory,
    serial: Annotated[str, typer.Option(help="The device's serial number.")],
    manager: Annotated[str, typer.Option(help="The manager's address, https://...")] = "",
    ca_file: Annotated[
        Path | None, typer.Option(help="The authority that signed the manager's certificate.")
    ] = None,
    proxy: Annotated[str, typer.Option(help="An HTTP proxy on the way to the manager.")] = "",
    token_file: TokenFile = None,
    key: Annotated[Path | None, typer.Option(help="A local license key file.")] = None,
    vendor_key: Annotated[
        Path | None, typer.Option(help="The vendor's public key file (vendor.pub).")
    ] = None,
    maximum: Annotated[
        list[str] | None,
        typer.Option(help="The device's maximum where no local key says it, TYPE=COUNT."),
    ] = None,
    listen: Annotated[
        list[str] | None, typer.Option(help="Where SIP listens, udp:ADDRESS:PORT; repeatable.")
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(help="Where calls go, [PREFIX=]HOST:PORT[;TRANSPORT]; repeatable."),
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option(help="Addresses or networks whose calls need no digest.")
    ] = None,
    gate_settings: Annotated[
        Path | None, typer.Option(help="A JSON file with the gate's settings.")
    ] = None,
    pages: Annotated[
        str, typer.Option(help="Where the pages listen, host:port; empty for none.")
    ] = DEFAULT_PAGES,
    ssh: Annotated[
        str, typer.Option(help="Where the shell listens, host:port; off unless given.")
    ] = "",
    smart: Annotated[
        bool,
        typer.Option(
            "--smart", help="Smart licensing alone licenses this device; while off, no calls."
        ),
    ] = False,
    call_policy: Annotated[
        str, typer.Option(help="What smart states mean for calls: cccsp-15, cusp, cusp-mib.")
    ] = CCCSP_15,
    cps_policy: Annotated[
        str, typer.Option(help="How calls per second are judged: instant or window.")
    ] = INSTANT,
    lab_clock: Annotated[str, typer.Option(help="A lab's clock file.", hidden=True)] = "",
) -> None:
    """Make a device. With a manager and a token (file, or CALLPOOL_TOKEN) it enrols by itself."""
    plan = Plan(
        serial=serial,
        manager=manager.rstrip("/"),
        ca_file=str(ca_file.resolve()) if ca_file else "",
        proxy=proxy,
        token=token_from(token_file),
        key=key.read_text() if key else "",
        vendor_key=PublicKey.from_text(vendor_key.read_text().strip()).text if vendor_key else "",
        maximum=counts_from(maximum or []).to_dict(),
        listen=tuple(listen or ()),
        destinations=tuple(destination or ()),
        trusted=tuple(trust or ()),
        gate=_gate_file(gate_settings),
        pages=pages,
        ssh=ssh,
        smart=smart,
        call_policy=call_policy,
        cps_policy=cps_policy,
        lab_clock=str(Path(lab_clock).resolve()) if lab_clock else "",
    )
    settings = set_up(Layout(directory.resolve()), plan)
    say(f"Device {settings.serial} is in {directory}; start it with")
    say(f"  callpool device run --dir {directory}")


def _gate_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise DeviceError("bad_gate_settings", f"{file}: {error}.") from error


@device_app.command()
def run(directory: Directory) -> None:
    """Run the device in the foreground: the core, its Kamailio, and the faces.

    SIGTERM stops all three after the call book is written. A core that is killed leaves
    Kamailio at work; the next run takes it over.
    """
    from callpool.device.app import run_device  # the whole device: other commands do without

    run_device(directory)


@device_app.command()
def status(directory: Directory, as_json: AsJson = False) -> None:
    """Show licenses, use, lease and alarms."""
    told = ask(Layout(directory.resolve()).control, "status", timeout=10.0)
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    show(msgspec.convert(told, Status))


@device_app.command()
def restart(
    directory: Directory,
    save: Annotated[bool, typer.Option("--save", help="Apply what the pool has sent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restart the SIP service; established calls survive it."""
    told = ask(Layout(directory.resolve()).control, "restart", save=save)
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    show(msgspec.convert(told, Status))


@device_app.command()
def pull(directory: Directory, as_json: AsJson = False) -> None:
    """Contact the manager at once."""
    ask(Layout(directory.resolve()).control, "pull", timeout=10.0)
    typer.echo("{}") if as_json else say("Asked for.")


@device_app.command()
def calls(
    directory: Directory,
    forget_uncertain: Annotated[
        bool,
        typer.Option(
            "--forget-uncertain",
            help="State that no call of the time when nobody counted is up any more: the"
            " sessions that count as used for it are given back.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the gate counts."""
    control = Layout(directory.resolve()).control
    forgotten = ask(control, "forget_uncertain", timeout=30.0) if forget_uncertain else 0
    told = ask(control, "calls", timeout=10.0)
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    if forget_uncertain:
        say(f"Sessions given back: {forgotten}.")
    for name, value in told.items():
        say(f"{name:14} {value}")


@key_app.command("install")
def key_install(
    file: Annotated[Path, typer.Argument(help="The local license key file.")],
    directory: Directory,
    as_json: AsJson = False,
) -> None:
    """Install a local license key; its counts and features are in force at once."""
    layout = Layout(directory.resolve())
    envelope = file.read_text(encoding="ascii", errors="replace").strip()
    try:
        key_id = ask(layout.control, "key_install", envelope=envelope)
    except DeviceError as error:
        if error.code != "not_running":
            raise
        key_id = install_offline(layout, envelope)
    if as_json:
        typer.echo(msgspec.json.encode({"key_id": key_id}).decode())
        return
    say(f"Local key {key_id} is installed.")


@device_app.command()
def enrol(directory: Directory, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Lay down a registration token (file, or CALLPOOL_TOKEN); the device enrols with it."""
    layout = Layout(directory.resolve())
    token = token_from(token_file)
    if not token:
        raise TrustError("bad_token", "Give the registration token with --token-file.")
    if not layout.load().manager:
        raise DeviceError("no_manager", "This device has no manager.")
    layout.lay_token(token)
    try:
        ask(layout.control, "enrol", timeout=10.0)
    except DeviceError as error:
        if error.code != "not_running":
            raise
    typer.echo("{}") if as_json else say("The token is laid down; see `callpool device status`.")


@floating_app.command("enable")
def floating_enable(directory: Directory, as_json: AsJson = False) -> None:
    """Turn floating licensing on; refused while another mode is on."""
    _floating(directory, as_json, on=True)


@floating_app.command("disable")
def floating_disable(directory: Directory, as_json: AsJson = False) -> None:
    """Turn floating licensing off."""
    _floating(directory, as_json, on=False)


def _floating(directory: Path, as_json: bool, *, on: bool) -> None:
    told = ask(Layout(directory.resolve()).control, "floating", on=on, timeout=10.0)
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    say(FLOATING_OFF)


@device_app.command("factory-reset")
def factory_reset(
    directory: Directory,
    serial: Annotated[str, typer.Option(help="This device's serial number, to confirm.")],
    as_json: AsJson = False,
) -> None:
    """Drop what the pool gave, smart licensing and the identity; keep the local key.

    Established calls go on. The serial number, the evaluation seconds used and the SIP settings
    stay. The license server is told; to enrol again, the device needs a new token from there.
    """
    told = ask(Layout(directory.resolve()).control, "factory_reset", serial=serial)
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
        return
    outcome = msgspec.convert(told, Outcome)
    say(f"Device {serial} is reset; only its local license key counts.")
    if outcome.told:
        say("The license server knows it.")
    elif outcome.code:
        say(f"The license server was not told: {outcome.sentence}")
        if outcome.lease_end is not None:
            ends = datetime.fromtimestamp(outcome.lease_end, UTC).strftime("%Y-%m-%d %H:%M UTC")
            say(f"It holds this device's share until the lease ends, {ends}.")


@device_app.command()
def stop(
    directory: Directory,
    leave_sip: Annotated[
        bool, typer.Option("--leave-sip", help="Leave Kamailio at work for the next run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the device: core, faces and Kamailio."""
    ask(Layout(directory.resolve()).control, "stop", leave_sip=leave_sip, timeout=10.0)
    typer.echo("{}") if as_json else say("Stopping.")


@device_app.command("test-call")
def call_for_test(
    directory: Directory,
    destination: Annotated[str, typer.Argument(help="The number to call.")] = "100",
    as_json: AsJson = False,
) -> None:
    """Place one real call through the device's own Kamailio (feature Test Call)."""
    from callpool.device.testcall import place_test_call

    result = place_test_call(Layout(directory.resolve()), destination)
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
    else:
        say(result.sentence)
    raise typer.Exit(0 if result.answered else 1)
