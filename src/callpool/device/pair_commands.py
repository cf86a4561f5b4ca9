"""`callpool device pair`: set, show, keepalived, switchover, off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from callpool.device.control import ask
from callpool.device.errors import DeviceError
from callpool.device.options import AsJson, Directory
from callpool.device.pair_address import ServiceAddress
from callpool.device.pair_settings import (
    ADVERT,
    CORE_PORT,
    PATIENCE,
    ROUTER,
    SIP_PORT,
    PairSettings,
    read_pair,
    read_secret,
    write_pair,
    write_secret,
)
from callpool.device.settings import Layout
from callpool.device.status import Status
from callpool.device.status_text import pair_lines
from callpool.host.console import say

pair_app = typer.Typer(no_args_is_help=True, help="The HA pair that this device is a unit of.")

_NEXT_RUN = "It counts from the next `callpool device run` on."


@pair_app.command("set")
def set_(
    directory: Directory,
    peer_serial: Annotated[str, typer.Option(help="The other unit's serial number.")],
    address: Annotated[str, typer.Option(help="This unit's own address on the way between them.")],
    peer: Annotated[str, typer.Option(help="The other unit's address there.")],
    service: Annotated[str, typer.Option(help="The service address, ADDRESS/PREFIX.")],
    interface: Annotated[str, typer.Option(help="The interface that it comes to.")],
    secret_file: Annotated[
        Path | None,
        typer.Option(
            help="The pair's secret, 64 hex digits; - for standard input. Without it a new one is"
            " made, and its file is to be given to the other unit."
        ),
    ] = None,
    sip_port: Annotated[int, typer.Option(help="UDP between the Kamailios.")] = SIP_PORT,
    core_port: Annotated[int, typer.Option(help="TCP between the cores.")] = CORE_PORT,
    router: Annotated[int, typer.Option(help="VRRP's virtual router identifier.")] = ROUTER,
    advert: Annotated[float, typer.Option(help="Seconds between advertisements.")] = ADVERT,
    patience: Annotated[
        float,
        typer.Option(help="Seconds that the other unit may be away before that is a fault."),
    ] = PATIENCE,
    runtime: Annotated[
        str, typer.Option(help="Where core and keepalived meet, on no disk that can fill.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make this device one unit of an HA pair."""
    layout = Layout(directory.resolve())
    layout.load()
    settings = PairSettings(
        peer_serial=peer_serial, address=address, peer=peer, service=service,
        interface=interface, sip_port=sip_port, core_port=core_port, router=router,
        advert=advert, patience=patience, runtime=runtime,
    )  # fmt: skip
    if secret_file is not None:
        source = Path("/dev/stdin") if str(secret_file) == "-" else secret_file
        write_secret(layout.pair_secret, read_secret(source))
    elif not layout.pair_secret.exists():
        write_secret(layout.pair_secret)
    write_pair(layout.pair, settings)
    if as_json:
        typer.echo(msgspec.json.encode(settings).decode())
        return
    say(f"The pair is set. {_NEXT_RUN}")
    if secret_file is None:
        say(f"Give {layout.pair_secret} to the other unit (`--secret-file`), by a safe way.")


@pair_app.command()
def show(directory: Directory, as_json: AsJson = False) -> None:
    """Show the pair: its settings, and what this unit knows where it runs."""
    layout = Layout(directory.resolve())
    layout.load()
    settings = read_pair(layout.pair)
    now = None
    if settings is not None:
        try:
            told = ask(layout.control, "status", timeout=10.0)
            now = msgspec.convert(told, Status).pair
        except DeviceError as error:
            if error.code != "not_running":
                raise
    if as_json:
        typer.echo(msgspec.json.encode({"settings": settings, "status": now}).decode())
        return
    if settings is None:
        say("This device is no unit of an HA pair.")
        return
    for name in PairSettings.__struct_fields__:
        say(f"{name:28} {getattr(settings, name)}")
    for label, value in pair_lines(now) if now is not None else []:
        say(f"{label:28} {value}")


@pair_app.command()
def keepalived(
    directory: Directory,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the configuration there: a file that only root may write."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write keepalived's configuration and scripts, and say where they are."""
    layout = Layout(directory.resolve())
    serial, settings = layout.load().serial, read_pair(layout.pair)
    if settings is None:
        raise DeviceError("no_pair", "This device is no unit of an HA pair.")
    address = ServiceAddress(settings, serial, layout.root)
    address.prepare()
    config = address.config
    if out is not None:
        config = out.resolve()
        config.write_text(address.text())
    if as_json:
        typer.echo(msgspec.json.encode({"config": str(config)}).decode())
        return
    say(f"{config}")


@pair_app.command()
def switchover(directory: Directory, as_json: AsJson = False) -> None:
    """Hand the service address to the other unit; ends with 1 where that cannot be."""
    result = ask(Layout(directory.resolve()).control, "switchover", timeout=20.0)
    typer.echo(msgspec.json.encode({"result": result}).decode()) if as_json else say(result)
    raise typer.Exit(0 if result == "done" else 1)


@pair_app.command()
def off(directory: Directory, as_json: AsJson = False) -> None:
    """Make this device one of its own again, and remove the pair's secret."""
    layout = Layout(directory.resolve())
    layout.load()
    for file in (layout.pair, layout.pair_secret):
        file.unlink(missing_ok=True)
    typer.echo("{}") if as_json else say(f"The pair is dissolved. {_NEXT_RUN}")
