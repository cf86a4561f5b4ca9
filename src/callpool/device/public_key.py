"""Public keys that a person brings, read by the SSH library; the core never loads it."""

from __future__ import annotations

from typing import Final

import asyncssh
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from callpool.device.errors import DeviceError
from callpool.device.users import check_key

#: Kinds of keys that may sign in; RSA only by SHA-2 (`signature_algs` in the server).
KINDS: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
#: The shortest RSA key, in bits.
_RSA_BITS: Final = 2048


def read_public_key(line: str) -> str:
    """Return a public key's line, tidied; raises DeviceError `bad_public_key`."""
    tidy = check_key(line)
    try:
        key = asyncssh.import_public_key(tidy)
    except (asyncssh.KeyImportError, ValueError) as error:
        raise DeviceError("bad_public_key", f"This is no public key: {error}.") from error
    kind = key.get_algorithm()
    if kind not in KINDS:
        raise DeviceError("bad_public_key", f"Keys of type {kind} are not taken.")
    if kind == "ssh-rsa":
        rsa = load_ssh_public_key(" ".join(tidy.split()[:2]).encode())
        if not isinstance(rsa, RSAPublicKey) or rsa.key_size < _RSA_BITS:
            raise DeviceError("bad_public_key", f"An RSA key has {_RSA_BITS} bits or more.")
    return tidy
