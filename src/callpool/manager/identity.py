"""Who the manager is: anchor, signing keys, certificate authority, TLS certificate.

The anchor's thumbprint is part of every registration token; it signs the key set and nothing
else. Replies are signed by the newest key that the device is known to hold, so keys are rolled
without a device ever meeting one that it does not know. The certificate authority is for TLS and
ID certificates; `ca.pem` holds all whose certificates are good now, and `ca-key.pem` says which of
them signs. The private files are encrypted where there is a passphrase (`passphrase.py`).
Certificates for TLS stay on real time.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from callpool.host.files import sync_directory, write_durably
from callpool.licensing.errors import CallpoolError, TrustError
from callpool.manager.passphrase import find_passphrase
from callpool.manager.settings import Layout
from callpool.wire.envelope import KEY_SET, sign
from callpool.wire.keys import (
    PublicKey,
    SigningKey,
    is_encrypted,
    private_pem,
    read_private,
)
from callpool.wire.messages import KeySet, SigningKeyEntry

#: How long an ID certificate is good for (design: 365 days).
ID_DAYS: Final = 365
#: How long the TLS certificate is good for, and when `run` makes a new one.
TLS_DAYS: Final = 397
TLS_RENEW_DAYS: Final = 30
_CA_DAYS: Final = 20 * 365
#: A key that is not rolled is good for this long.
_KEY_SECONDS: Final = 20 * 365 * 86_400.0


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One signing key of the set, as `identity/keys.json` keeps it."""

    #: The file in the identity directory.
    file: str
    #: Its public half, base64url.
    public_key: str
    #: The key set's serial with which it came.
    since: int
    #: Replies signed by it are refused from this time on.
    not_after: float


class KeyBook(msgspec.Struct, frozen=True, kw_only=True):
    """All signing keys, newest last, and the set in its envelope signed by the anchor."""

    serial: int
    keys: tuple[KeyRecord, ...]
    envelope: str
    #: The authorities, PEM, that devices are told to trust for TLS; none before the first rollover.
    authorities: tuple[str, ...] = ()


class Identity:
    """The manager's keys, read from its identity directory."""

    def __init__(self, layout: Layout) -> None:
        """Read the keys.

        Raises OSError, TrustError `bad_key`, `no_passphrase`, `wrong_passphrase`, CallpoolError
        `no_passphrase`.
        """
        self._directory = layout.identity
        self._layout = layout
        self.passphrase = find_passphrase()
        self.anchor = SigningKey.load(self._directory / "anchor.pem", self.passphrase)
        #: Whether the private files are encrypted; what is made anew is as the anchor is.
        self.encrypted = is_encrypted(self._directory / "anchor.pem")
        ca_key = read_private(self._directory / "ca-key.pem", self.passphrase)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)  # made by `create`
        self._ca_key = ca_key
        self._ca = _of_key(layout.ca.read_bytes(), ca_key)
        self._stamp: tuple[int, int] | None = None
        self._signing: dict[str, SigningKey] = {}
        self._book = KeyBook(serial=0, keys=(), envelope="")
        self.key_book()

    @classmethod
    def create(cls, layout: Layout, *, hosts: Sequence[str], now: float) -> Identity:
        """Make all keys and certificates, private files mode 0600; raises OSError."""
        directory = layout.identity
        directory.mkdir(mode=0o700, exist_ok=True)
        anchor = SigningKey.generate()
        anchor.save(directory / "anchor.pem")
        ca_key, ca = _new_ca()
        write_durably(directory / "ca-key.pem", private_pem(ca_key, None))
        write_durably(layout.ca, _pem(ca), mode=0o644)
        _roll(directory, anchor, KeyBook(serial=0, keys=(), envelope=""), now, 0.0, None)
        made = cls(layout)
        made.make_tls(hosts)
        return made

    def key_book(self) -> KeyBook:
        """Return the signing keys, read again where another process has rolled them."""
        file = self._directory / "keys.json"
        found = file.stat()
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            book = msgspec.json.decode(file.read_bytes(), type=KeyBook)
            self._signing = {
                k.file: SigningKey.load(self._directory / k.file, self.passphrase)
                for k in book.keys
            }
            self._book, self._stamp = book, stamp
        return self._book

    def signer(self, known: int, now: float) -> SigningKey:
        """Return the newest key of the set whose serial `known` a device holds."""
        book = self.key_book()
        usable = [k for k in book.keys if k.since <= known and k.not_after > now]
        return self._signing[(usable or book.keys)[-1].file]

    def roll(self, now: float, old_valid_seconds: float) -> KeyBook:
        """Add a new signing key; the old ones stay good for `old_valid_seconds`."""
        _roll(self._directory, self.anchor, self.key_book(), now, old_valid_seconds, self._seal)
        return self.key_book()

    def id_certificate(self, serial: str, key: PublicKey, now: float) -> str:
        """Return an ID certificate for a unit, PEM, good for ID_DAYS from `now`."""
        start = datetime.fromtimestamp(now, UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)]))
            .issuer_name(self._ca.subject)
            .public_key(Ed25519PublicKey.from_public_bytes(key.raw))
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - timedelta(minutes=5))
            .not_valid_after(start + timedelta(days=ID_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._ca_key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def make_tls(self, hosts: Sequence[str]) -> None:
        """Make a new TLS server certificate for localhost and `hosts`; raises OSError."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for host in dict.fromkeys(["localhost", "127.0.0.1", *hosts]):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        start = datetime.now(UTC) - timedelta(days=1)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "callpool manager")]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=TLS_DAYS))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()),
                critical=False,
            )
            .sign(self._ca_key, hashes.SHA256())
        )
        # The key first: whoever finds a certificate that is not the key's makes both anew.
        write_durably(self._layout.certificate_key, private_pem(key, self._seal))
        write_durably(
            self._layout.certificate,
            certificate.public_bytes(serialization.Encoding.PEM),
            mode=0o644,
        )

    def renew_tls(self, hosts: Sequence[str]) -> None:
        """Make a new TLS certificate where the present one is about to end, or is not ours.

        Not ours is one by another authority than the one that signs now, or for another key: the
        two files were half replaced.
        """
        present = x509.load_pem_x509_certificate(self._layout.certificate.read_bytes())
        left = present.not_valid_after_utc - datetime.now(UTC)
        key = read_private(self._layout.certificate_key, self.passphrase)
        try:
            present.verify_directly_issued_by(self._ca)
            ours = present.public_key() == key.public_key()
        except (ValueError, TypeError, InvalidSignature):
            ours = False
        if left < timedelta(days=TLS_RENEW_DAYS) or not ours:
            self.make_tls(hosts)

    # -- the passphrase

    @property
    def _seal(self) -> bytes | None:
        return self.passphrase if self.encrypted else None

    def reseal(self, passphrase: bytes | None) -> int:
        """Write every private file anew, encrypted by `passphrase` or plain; return how many.

        One file at a time, each whole: stopped half-way, all of them are still read with the same
        passphrase. The anchor comes last. Raises OSError, TrustError as reading does.
        """
        files = [self._layout.certificate_key, self._directory / "ca-key.pem"]
        files += sorted(self._directory.glob("ca-next-key.pem"))
        files += sorted(self._directory.glob("signing-*.pem"))
        files.append(self._directory / "anchor.pem")
        for file in files:
            key = read_private(file, self.passphrase)
            assert isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey)  # made here
            write_durably(file, private_pem(key, passphrase))
        self.passphrase, self.encrypted = passphrase, passphrase is not None
        return len(files)

    # -- rollover of the certificate authority

    @property
    def authorities(self) -> tuple[str, ...]:
        """The certificates in `ca.pem`, PEM, the one that signs first."""
        found = x509.load_pem_x509_certificates(self._layout.ca.read_bytes())
        return tuple(_pem(c).decode() for c in sorted(found, key=lambda c: c != self._ca))

    def begin_ca(self, now: float) -> KeyBook:
        """Make the next authority and have devices told of both; nothing is signed by it yet.

        Raises CallpoolError `ca_under_way`, OSError.
        """
        if len(self.authorities) > 1:
            raise CallpoolError(
                "ca_under_way",
                "A rollover of the certificate authority is under way: end it first.",
            )
        key, made = _new_ca()
        write_durably(self._next_ca_key, private_pem(key, self._seal))
        both = (*self.authorities, _pem(made).decode())
        write_durably(self._layout.ca, "".join(both).encode(), mode=0o644)
        return self._tell(both, now)

    def switch_ca(self, hosts: Sequence[str]) -> None:
        """Sign by the next authority from now on; raises CallpoolError `no_next_ca`, OSError."""
        if not self._next_ca_key.exists():
            raise CallpoolError(
                "no_next_ca", "There is no next certificate authority: run `ca begin` first."
            )
        key = read_private(self._next_ca_key, self.passphrase)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # made by `begin_ca`
        ca = _of_key(self._layout.ca.read_bytes(), key)
        # Which authority signs is decided by this one file.
        self._next_ca_key.replace(self._directory / "ca-key.pem")
        sync_directory(self._directory)
        self._ca_key, self._ca = key, ca
        self.make_tls(hosts)

    def retire_ca(self, now: float) -> KeyBook:
        """Have devices trust the authority that signs alone; raises CallpoolError, OSError.

        `no_old_ca` where there is nothing to retire, `ca_under_way` before the switch.
        """
        if self._next_ca_key.exists():
            raise CallpoolError(
                "ca_under_way", "The next authority does not sign yet: switch first."
            )
        if len(self.authorities) < 2:
            raise CallpoolError("no_old_ca", "There is no old certificate authority to retire.")
        mine = (_pem(self._ca).decode(),)
        book = self._tell(mine, now)
        write_durably(self._layout.ca, mine[0].encode(), mode=0o644)
        return book

    @property
    def _next_ca_key(self) -> Path:
        return self._directory / "ca-next-key.pem"

    def _tell(self, authorities: tuple[str, ...], now: float) -> KeyBook:
        _rebook(
            self._directory, self.anchor, self.key_book(), now, authorities=authorities, keys=None
        )
        return self.key_book()


def check_request(pem: str, serial: str, key: PublicKey) -> None:
    """Refuse a certificate request that is not this unit's own: TrustError `bad_request`."""
    wrong = TrustError(
        "bad_request", "The certificate request does not match the device's key and serial number."
    )
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        public = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise wrong from error
    names = [str(n.value) for n in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not (
        valid
        and isinstance(public, Ed25519PublicKey)
        and public.public_bytes_raw() == key.raw
        and names == [serial]
    ):
        raise wrong


def _roll(
    directory: Path,
    anchor: SigningKey,
    book: KeyBook,
    now: float,
    old: float,
    seal: bytes | None,
) -> None:
    key = SigningKey.generate()
    serial = book.serial + 1
    record = KeyRecord(
        file=f"signing-{serial}.pem",
        public_key=key.public.text,
        since=serial,
        not_after=now + _KEY_SECONDS,
    )
    kept = [msgspec.structs.replace(k, not_after=min(k.not_after, now + old)) for k in book.keys]
    key.save(directory / record.file, seal)
    _rebook(directory, anchor, book, now, authorities=book.authorities, keys=(*kept, record))


def _rebook(
    directory: Path,
    anchor: SigningKey,
    book: KeyBook,
    now: float,
    *,
    authorities: tuple[str, ...],
    keys: tuple[KeyRecord, ...] | None,
) -> None:
    """Write the next key set; `keys` is None for those of `book`. What is over is left out."""
    kept = tuple(k for k in (book.keys if keys is None else keys) if k.not_after > now)
    body = KeySet(
        serial=book.serial + 1,
        keys=tuple(SigningKeyEntry(public_key=k.public_key, not_after=k.not_after) for k in kept),
        authorities=authorities,
    )
    made = KeyBook(
        serial=body.serial,
        keys=kept,
        envelope=sign(anchor, KEY_SET, body),
        authorities=authorities,
    )
    # The book is replaced last: until then a new key is a file that nobody names.
    write_durably(directory / "keys.json", msgspec.json.encode(made))


def _new_ca() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of one name would be told apart by their keys only.
    label = f"callpool manager CA {secrets.token_hex(4)}"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)])
    start = datetime.now(UTC) - timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, made


def _of_key(bundle: bytes, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Return the certificate of `key` in `ca.pem`; raises TrustError `bad_key`."""
    for certificate in x509.load_pem_x509_certificates(bundle):
        if certificate.public_key() == key.public_key():
            return certificate
    raise TrustError("bad_key", "ca.pem holds no certificate for the key in ca-key.pem.")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
