"""Debian's redis-server for tests: with TLS and users of its own, or as a cluster of three on loopback."""

import contextlib
import datetime
import ipaddress
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recsys.embedded.process import LOOPBACK, free_ports

PROGRAM = Path("/usr/bin/redis-server")
needs_debian = pytest.mark.skipif(not PROGRAM.exists(), reason="no /usr/bin/redis-server: make redis-server")
# What docs/serving.md tells readers and publishers to be given
READER = "~recsys:* resetchannels -@all +@read +ping +select"
PUBLISHER = f"{READER} +@write +@scripting +info +cluster"


@contextlib.contextmanager
def running(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Servers that run for the time of the block."""
    servers = [subprocess.Popen([str(PROGRAM), *command], stdout=subprocess.DEVNULL) for command in commands]
    try:
        yield
    finally:
        for server in servers:
            server.kill()
        for server in servers:
            server.wait()


def answers(client: redis.Redis) -> redis.Redis:
    """The client, once its server answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            return client
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[dict[str, str]]:
    """A server over TLS alone, with a reader and a publisher among its users; URLs by user, and ``nobody``'s."""
    certificate(folder)
    (folder / "users.acl").write_text(
        f"user default off\nuser ranker on >sesame {READER}\nuser publisher on >poppy {PUBLISHER}\n"
    )
    (port,) = free_ports(1)
    command = ["--port", "0", "--tls-port", str(port), "--bind", LOOPBACK, "--dir", str(folder), "--save", ""]
    command += ["--tls-cert-file", "server.crt", "--tls-key-file", "server.key", "--tls-ca-cert-file", "server.crt"]
    command += ["--tls-auth-clients", "no", "--aclfile", str(folder / "users.acl")]
    options = f"ssl_ca_certs={folder / 'server.crt'}"
    urls = {
        user: f"rediss://{login}@{LOOPBACK}:{port}/0?{options}"
        for user, login in (("ranker", "ranker:sesame"), ("publisher", "publisher:poppy"), ("nobody", "ranker:wrong"))
    }
    urls["untrusting"] = urls["ranker"].partition("?")[0]
    with running([command]):
        answers(redis.Redis.from_url(urls["publisher"])).close()
        yield urls


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Three nodes with a third of the slots each; the URL of one."""
    ports = free_ports(3)
    commands = []
    for port in ports:
        (folder / str(port)).mkdir()
        options = ["--port", str(port), "--bind", LOOPBACK, "--dir", str(folder / str(port)), "--save", ""]
        commands.append([*options, "--cluster-enabled", "yes", "--cluster-port", str(free_ports(1)[0])])
    with running(commands):
        nodes = [answers(redis.Redis(port=port)) for port in ports]
        for at, node in enumerate(nodes):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", at * 16384 // 3, (at + 1) * 16384 // 3 - 1)
            bus = int(commands[at][-1])
            nodes[0].execute_command("CLUSTER", "MEET", LOOPBACK, ports[at], bus)
        deadline = time.monotonic() + 30
        while not all(b"cluster_state:ok" in _info(node) and b"cluster_known_nodes:3" in _info(node) for node in nodes):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for node in nodes:
            node.close()
        yield f"redis+cluster://{LOOPBACK}:{ports[1]}"


def _info(node: redis.Redis) -> bytes:
    with node.client() as single:
        connection = single.connection
        assert connection is not None
        connection.send_command("CLUSTER", "INFO")
        said = connection.read_response()
    return said if isinstance(said, bytes) else str(said).encode()


def certificate(folder: Path) -> None:
    """``server.crt``, of loopback, which signs itself, and ``server.key``."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "server.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
