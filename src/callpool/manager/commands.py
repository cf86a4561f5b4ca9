"""`callpool manager`: make a manager, run it, and what only its own machine may do."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from callpool.host.console import say
from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError
from callpool.manager import inventory, move_commands
from callpool.manager.change import HERE
from callpool.manager.core import FIRST_OPERATOR, Manager
from callpool.manager.inventory import check_name
from callpool.manager.operators import reset
from callpool.manager.passphrase import SHORTEST, read_passphrase
from callpool.manager.passwords import hashed_password
from callpool.manager.restore import accept
from callpool.manager.rollover import key_set_known
from callpool.manager.settings import Layout, Settings, load, save, split_listen
from callpool.manager.snmp_commands import station_app, syslog_app
from callpool.manager.store.postgresql import checked
from callpool.wire.keys import PublicKey
from callpool.wire.tokens import join

manager_app = typer.Typer(no_args_is_help=True, help="Run the license pool's manager.")

ca_app = typer.Typer(no_args_is_help=True, help="Roll the certificate authority over.")
key_app = typer.Typer(no_args_is_help=True, help="Encrypt the manager's identity.")
manager_app.add_typer(ca_app, name="ca")
manager_app.add_typer(key_app, name="key")
manager_app.add_typer(station_app, name="snmp")
manager_app.add_typer(syslog_app, name="syslog")
move_commands.add_to(manager_app)

Directory = Annotated[Path, typer.Option("--dir", help="The manager's directory.")]
#: Who a change is journalled under when it is made on the manager's own machine.
_LOCAL = "root"


def vendor_key(file: Path) -> str:
    """Return the public key in a vendor's `vendor.pub`; raises TrustError `bad_key`, OSError."""
    return PublicKey.from_text(file.read_text(errors="replace").strip()).text


def check_listen(listen: str) -> str:
    """Return ADDRESS:PORT; raises CallpoolError `bad_listen`."""
    try:
        split_listen(listen)
    except ValueError as error:
        raise CallpoolError(
            "bad_listen", "--listen is ADDRESS:PORT, such as 0.0.0.0:443."
        ) from error
    return listen


@manager_app.command()
def init(
    directory: Directory,
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT.")] = Settings().listen,
    host: Annotated[
        list[str] | None, typer.Option(help="A name devices reach it by; repeatable.")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="A further URL that requests may be signed for (a proxy); repeatable."),
    ] = None,
    vendor: Annotated[
        list[Path] | None, typer.Option("--vendor-key", help="A vendor's vendor.pub; repeatable.")
    ] = None,
    lease_seconds: Annotated[float, typer.Option(help="Length of a lease.", min=1.0)] = (
        Settings().lease_seconds
    ),
    poll_seconds: Annotated[float, typer.Option(help="Between two polls.", min=0.1)] = (
        Settings().poll_seconds
    ),
    retry_seconds: Annotated[float, typer.Option(help="Between retries at first.", min=0.1)] = (
        Settings().retry_seconds
    ),
    grant_journal: Annotated[
        str, typer.Option(help="File of the grant journal; on another disk than --dir is best.")
    ] = "",
    database_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with a PostgreSQL database's URL; without it the database is SQLite's."
        ),
    ] = None,
    lab_clock: Annotated[str, typer.Option(help="A lab's clock file.")] = "",
) -> None:
    """Make a manager: keys, certificates, database, first operator."""
    settings = Settings(
        listen=check_listen(listen),
        hosts=tuple(host or ()),
        urls=tuple(url or ()),
        vendor_keys=tuple(vendor_key(file) for file in vendor or ()),
        lease_seconds=lease_seconds,
        poll_seconds=poll_seconds,
        retry_seconds=retry_seconds,
        grant_journal=str(Path(grant_journal).absolute()) if grant_journal else "",
        lab_clock=str(Path(lab_clock).absolute()) if lab_clock else "",
    )
    layout = Layout(directory)
    if database_file is not None and not layout.settings.exists():
        place = checked(database_file.read_text()).render_as_string(hide_password=False)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(layout.database_url, f"{place}\n".encode())
    manager = Manager.create(layout, settings)
    say(f"Product key: {manager.product_key()}")
    say(f"Operator {FIRST_OPERATOR}; the password is in {manager.layout.password}")
    say(f"Clients trust {manager.layout.ca}")
    if not settings.vendor_keys:
        say(f"Next: callpool manager trust-vendor --dir {directory} FILE (the vendor's vendor.pub)")
    manager.close()


@manager_app.command()
def run(
    directory: Directory,
    listen: Annotated[str, typer.Option(help="ADDRESS:PORT instead of the configured.")] = "",
) -> None:
    """Run the manager until a signal ends it."""
    # Imported here: the other commands do without the web framework.
    from callpool.manager.app import serve

    manager = Manager(Layout(directory))
    try:
        serve(manager, check_listen(listen or manager.settings.listen))
    finally:
        manager.close()


@manager_app.command("product-key")
def product_key(directory: Directory) -> None:
    """Print the key that orders are bound to."""
    say(Manager(Layout(directory)).product_key())


@manager_app.command("trust-vendor")
def trust_vendor(
    directory: Directory, file: Annotated[Path, typer.Argument(help="The vendor's vendor.pub.")]
) -> None:
    """Import orders of this vendor from now on (a running manager: restart it)."""
    layout = Layout(directory)
    settings = load(layout)
    keys = tuple(dict.fromkeys([*settings.vendor_keys, vendor_key(file)]))
    save(layout, msgspec.structs.replace(settings, vendor_keys=keys))
    Manager(layout).change(_LOCAL, HERE, lambda c: c.journal("vendor_trusted", key=keys[-1]))
    say(f"{len(keys)} vendor key(s) trusted.")


@manager_app.command("roll-key")
def roll_key(
    directory: Directory,
    old_valid_days: Annotated[float, typer.Option(help="Old keys stay good for.", min=0)] = 30.0,
) -> None:
    """Sign replies by a new key from now on; devices learn it at their next contact."""
    manager = Manager(Layout(directory))
    now = manager.clock.now().wall
    book = manager.identity.roll(now, old_valid_days * 86_400)
    manager.change(_LOCAL, HERE, lambda c: c.journal("key_rolled", key_set=book.serial))
    say(f"Key set {book.serial} is in force.")


@ca_app.command("begin")
def ca_begin(directory: Directory) -> None:
    """Make the next certificate authority and have devices told of both."""
    manager = Manager(Layout(directory))
    book = manager.identity.begin_ca(manager.clock.now().wall)
    manager.change(_LOCAL, HERE, lambda c: c.journal("ca_begun", key_set=book.serial))
    say(f"Key set {book.serial} tells devices of the next authority; `ca status` says who knows.")


@ca_app.command("status")
def ca_status(directory: Directory) -> None:
    """Say how far a rollover is: how many devices do not know the key set of now."""
    manager = Manager(Layout(directory))
    left, known = manager.database.read(lambda tx: key_set_known(tx, manager.identity))
    authorities = len(manager.identity.authorities)
    say(
        f"{authorities} authorit{'y' if authorities == 1 else 'ies'}. The key set of now is known "
        f"to {known} devices, not yet to {left}."
    )


@ca_app.command("switch")
def ca_switch(
    directory: Directory,
    force: Annotated[
        bool, typer.Option("--force", help="Though some devices do not know it: they are cut off.")
    ] = False,
) -> None:
    """Sign by the next authority from now on (a running manager: restart it)."""
    manager = Manager(Layout(directory))
    left, _ = manager.database.read(lambda tx: key_set_known(tx, manager.identity))
    if left and not force:
        raise CallpoolError(
            "ca_not_known",
            f"{left} devices do not know the next authority yet and would be cut off; wait for "
            "their next contact, or use --force.",
        )
    manager.identity.switch_ca(manager.settings.hosts)
    manager.change(_LOCAL, HERE, lambda c: c.journal("ca_switched", unknown_to=left))
    say("The next authority signs. Restart the manager: its TLS certificate is a new one.")


@ca_app.command("retire")
def ca_retire(directory: Directory) -> None:
    """Have devices trust the new authority alone; new ones are given the ca.pem of now."""
    manager = Manager(Layout(directory))
    book = manager.identity.retire_ca(manager.clock.now().wall)
    manager.change(_LOCAL, HERE, lambda c: c.journal("ca_retired", key_set=book.serial))
    say(f"Key set {book.serial} names the new authority alone.")


@key_app.command("encrypt")
def key_encrypt(
    directory: Directory,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Its first line; asked for without it.")
    ] = None,
) -> None:
    """Encrypt the identity: anchor, authority, signing keys, TLS key. Restart the manager after it.

    From then on every `callpool manager` command needs the passphrase: as the credential
    `manager-passphrase` of its unit, or in the file that CALLPOOL_PASSPHRASE_FILE names.
    """
    if passphrase_file is not None:
        passphrase = read_passphrase(passphrase_file)
    else:
        passphrase = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True).encode()
    if len(passphrase) < SHORTEST:
        raise CallpoolError("weak_passphrase", f"A passphrase has at least {SHORTEST} characters.")
    manager = Manager(Layout(directory))
    count = manager.identity.reseal(passphrase)
    manager.change(_LOCAL, HERE, lambda c: c.journal("identity_encrypted"))
    say(f"{count} private files are encrypted. Copies made before are not: destroy them.")


@key_app.command("decrypt")
def key_decrypt(directory: Directory) -> None:
    """Write the identity's private files plain again; needs the passphrase as all commands do."""
    manager = Manager(Layout(directory))
    count = manager.identity.reseal(None)
    manager.change(_LOCAL, HERE, lambda c: c.journal("identity_decrypted"))
    say(f"{count} private files are plain, mode 0600.")


@manager_app.command("accept-restore")
def accept_restore(
    directory: Directory,
    reason: Annotated[str, typer.Option(help="Why it is safe; kept in the journal.")],
    operator: Annotated[str, typer.Option(help="Who decides; kept in the journal.")] = _LOCAL,
) -> None:
    """Give again at once, though not every device has reported since a restoration."""
    manager = Manager(Layout(directory))
    manager.change(operator, HERE, lambda c: accept(c, reason))
    say("The restored state has ended; what is free is given again.")


@manager_app.command()
def unlock(
    directory: Directory, serial: Annotated[str, typer.Argument(help="The unit's serial number.")]
) -> None:
    """Release a locked unit; prints the token by which one machine may go on as it."""
    manager = Manager(Layout(directory))
    _, secret = manager.change(_LOCAL, HERE, lambda c: inventory.unlock(c, serial))
    say(join(secret, manager.identity.anchor.public.kid))


operator_app = typer.Typer(no_args_is_help=True, help="Let an operator in again, on this machine.")
manager_app.add_typer(operator_app, name="operator")


@operator_app.command("reset")
def reset_operator(
    directory: Directory,
    username: Annotated[str, typer.Argument(help="The operator's name.")] = FIRST_OPERATOR,
    out: Annotated[
        str, typer.Option(help="A file for the new password, mode 0600; `-` prints it, once.")
    ] = "",
) -> None:
    """Give an operator a new password; one who does not exist is added as an administrator."""
    manager = Manager(Layout(directory))
    password = secrets.token_urlsafe(18)
    kept = hashed_password(password)
    # The password is on disk before it counts: one that nobody has read lets nobody in.
    file = Path(out) if out else manager.layout.directory / f"{check_name(username, 'It')}.password"
    if out != "-":
        write_durably(file, f"{password}\n".encode())
    manager.change(_LOCAL, HERE, lambda c: reset(c, username, kept))
    manager.close()
    say(password if out == "-" else f"The password of {username} is in {file}")
