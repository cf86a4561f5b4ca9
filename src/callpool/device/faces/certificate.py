"""The pages' TLS certificate: self-signed P-256, made at `init`, made anew before it ends."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from callpool.device.settings import Layout
from callpool.host.files import write_durably

#: How long a certificate is good for, and how long before its end a new one is made, in days.
DAYS: Final = 397
RENEW_DAYS: Final = 30


def make_certificate(layout: Layout, host: str) -> None:
    """Make a key and a certificate for `host`; real time, whatever a lab's clock says.

    Raises OSError.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    for text in dict.fromkeys(("127.0.0.1", host)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "callpool device")])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_durably(layout.pages_key, private)
    write_durably(
        layout.pages_certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644
    )


def keep_certificate(layout: Layout, host: str) -> None:
    """Make a certificate where there is none or its end is near; raises OSError."""
    try:
        present = x509.load_pem_x509_certificate(layout.pages_certificate.read_bytes())
        left = present.not_valid_after_utc - datetime.now(UTC)
    except (FileNotFoundError, ValueError):
        left = timedelta()
    if left < timedelta(days=RENEW_DAYS) or not layout.pages_key.exists():
        make_certificate(layout, host)
