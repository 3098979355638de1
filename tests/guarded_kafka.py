"""A real broker that asks for a login (SCRAM-SHA-512) over TLS, and the certificates of a small authority."""

import datetime
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recsys.embedded.kafka import EmbeddedKafka
from recsys.embedded.process import LOOPBACK, free_ports

USER = "ranker"


class GuardedKafka(EmbeddedKafka):
    """An embedded Kafka with a second listener at ``address``; its first, on loopback, stays open for the broker."""

    def __init__(self, folder: Path, password: str, env: Mapping[str, str] = os.environ) -> None:
        self._password = password
        self.address = f"{LOOPBACK}:{free_ports(1)[0]}"
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = write_certificates(folder)
        super().__init__(folder, env=env)

    def security(self, password_env: str) -> dict[str, Any]:
        """What a client is told."""
        return {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": USER,
            "sasl_plain_password_env": password_env,
            "ssl_cafile": str(self.ca_file),
        }

    def _write_properties(self) -> None:
        super()._write_properties()
        path = self.folder / "kafka.properties"
        properties = dict(line.split("=", 1) for line in path.read_text().splitlines())
        for name in ("listeners", "advertised.listeners"):
            properties[name] += f",GUARDED://{self.address}"
        properties["listener.security.protocol.map"] += ",GUARDED:SASL_SSL"
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        properties |= {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.guarded.scram-sha-512.sasl.jaas.config": login,
            "listener.name.guarded.ssl.keystore.type": "PEM",
            "listener.name.guarded.ssl.keystore.location": "server.pem",
        }
        path.write_text("\n".join(f"{name}={value}" for name, value in properties.items()) + "\n")

    def _commands(self, java: list[str]) -> list[list[str]]:
        *formatting, run = super()._commands(java)
        user = ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={self._password}]"]
        return [*([*command, *user] for command in formatting), run]


def write_certificates(folder: Path) -> Path:
    """``server.pem`` (key and certificate of 127.0.0.1) and the file of the authority that signed it, returned."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"the authority of {folder.name}")])
    now = datetime.datetime.now(datetime.UTC)

    def begun(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    root = begun(authority, authority_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))])
    server = begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, LOOPBACK)]), server_key)
    signed = server.add_extension(names, critical=False).sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + signed.public_bytes(pem))
    (folder / "ca.pem").write_bytes(root.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    return folder / "ca.pem"
