"""The passphrase of an encrypted identity: from a file that only this program may read.

systemd hands it over as a credential (`LoadCredential=manager-passphrase:FILE`); by hand it is a
file that CALLPOOL_PASSPHRASE_FILE names. It never stands on a command line or in a setting.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from callpool.licensing.errors import CallpoolError

#: The credential's name, in the directory that systemd names.
CREDENTIAL: Final = "manager-passphrase"
#: The shortest passphrase that an identity is encrypted by, in characters.
SHORTEST: Final = 12


def find_passphrase() -> bytes | None:
    """Return the passphrase, None where none is given; raises CallpoolError `no_passphrase`."""
    named = os.environ.get("CALLPOOL_PASSPHRASE_FILE", "")
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if named:
        return read_passphrase(Path(named))
    if credentials and (file := Path(credentials) / CREDENTIAL).exists():
        return read_passphrase(file)
    return None


def read_passphrase(file: Path) -> bytes:
    """Read a passphrase: the file's first line; raises CallpoolError `no_passphrase`."""
    try:
        line = file.read_bytes().partition(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise CallpoolError(
            "no_passphrase", f"The passphrase file {file} cannot be read: {error.strerror}."
        ) from error
    if not line:
        raise CallpoolError("no_passphrase", f"The passphrase file {file} is empty.")
    return line
