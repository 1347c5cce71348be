"""A wire to an S3 server that can be looked at, cut and wrapped in TLS: what lies between a client and its service."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REQUEST = re.compile(rb"(?:GET|PUT|POST|HEAD|DELETE) \S+ HTTP/1\.1\r\n.*?\r\n\r\n", re.DOTALL)


@dataclass
class Wire:
    """A wire to a server.

    Attributes:
        endpoint: where it begins.
        cut_after: bytes of answers after which the next connection breaks off; None while none does.
    """

    endpoint: str
    cut_after: int | None = None
    _sent: list[bytes] = field(default_factory=list)

    def requests(self) -> list[dict[str, str]]:
        """Every request so far: its headers by their names in small letters, and `request` for its first line."""
        requests = []
        for stream in list(self._sent):
            for head in REQUEST.findall(stream):
                first, *lines = head.decode("latin-1").strip().split("\r\n")
                pairs = (line.partition(":") for line in lines)
                requests.append({"request": first} | {name.lower(): value.strip() for name, _, value in pairs})
        return requests


@contextlib.contextmanager
def wire_to(endpoint: str, certificate: Path | None = None) -> Iterator[Wire]:
    """A wire to the server at `endpoint`, on a free port of 127.0.0.1, until the block ends.

    Args:
        certificate: PEM file with a key and a certificate; the wire speaks TLS then.
    """
    host, _, port = endpoint.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    scheme = "http" if certificate is None else "https"
    wire = Wire(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    open_sockets: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=connect, args=(client,), daemon=True).start()

    def connect(client: socket.socket) -> None:
        try:
            if context is not None:
                client = context.wrap_socket(client, server_side=True)
            server = socket.create_connection((host, int(port)))
        except OSError:
            client.close()
            return
        open_sockets.extend((client, server))
        number = len(wire._sent)
        wire._sent.append(b"")
        threading.Thread(target=answers, args=(server, client), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                wire._sent[number] += data[: 1 << 12]  # heads; of bodies only the beginnings
                server.sendall(data)
        _close(client, server)

    def answers(server: socket.socket, client: socket.socket) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                passed += len(data)
                if wire.cut_after is not None and passed > wire.cut_after:
                    wire.cut_after = None
                    break
                client.sendall(data)
        _close(client, server)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        _close(*open_sockets)


def _close(*sockets: socket.socket) -> None:
    for item in sockets:
        with contextlib.suppress(OSError):
            item.shutdown(socket.SHUT_RDWR)
        item.close()


def make_authority(folder: Path) -> tuple[Path, Path]:
    """A certificate authority of our own, and a server of 127.0.0.1 that it vouches for.

    Returns:
        PEM file of the authority's certificate; PEM file of the server's key and certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    root = (
        certificate("an authority of our own", authority, "an authority of our own", authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = (
        certificate("a storage of our own", server, "an authority of our own", authority)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    bundle, pair = folder / "ca.crt", folder / "server.pem"
    bundle.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    key = server.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pair.write_bytes(key + leaf.public_bytes(serialization.Encoding.PEM))
    return bundle, pair
