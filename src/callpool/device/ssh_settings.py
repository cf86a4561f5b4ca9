"""`ssh.json`: where the shell listens; and the host key."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from callpool.device.errors import DeviceError
from callpool.host.addresses import address
from callpool.host.files import write_durably

#: Where the shell listens unless told otherwise: SSH's own port, this machine only.
DEFAULT_SSH: Final = "127.0.0.1:22"


class SshSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    listen: str = DEFAULT_SSH

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_address`."""
        address(self.listen)


def read_ssh(file: Path) -> SshSettings | None:
    """Return the settings, None where the shell is off; raises DeviceError `bad_ssh_settings`."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=SshSettings)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise DeviceError("bad_ssh_settings", f"{file}: {error}.") from error


def write_ssh(file: Path, settings: SshSettings) -> None:
    """Write the settings; raises OSError."""
    write_durably(file, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")


def host_key(file: Path) -> bytes:
    """Return the host key (Ed25519, OpenSSH's form), made and written, mode 0600, where there is
    none yet; raises OSError."""  # noqa: D205, D209 - one sentence
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not file.exists():
        key = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        write_durably(file, key)
    return file.read_bytes()


def fingerprint(file: Path) -> str:
    """Return the host key's fingerprint as ssh prints it; raises OSError."""
    import base64
    import hashlib

    from cryptography.hazmat.primitives import serialization

    key = serialization.load_ssh_private_key(host_key(file), password=None)
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
