"""Keys, certificates, the TLS configuration, authentication records and users' passwords (docs: "Security")."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.servers.vertica import wire
from tests.servers.vertica.problems import VerticaError, duplicate_object

if TYPE_CHECKING:
    from tests.servers.vertica.lexer import Reader
    from tests.servers.vertica.session import Session

_SUBJECT = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
_USAGES = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
_MODES = ("DISABLE", "ENABLE", "TRY_VERIFY", "VERIFY_CA", "VERIFY_FULL")
_METHODS = ("trust", "reject", "hash")


@dataclass
class Certificate:
    """A certificate and the key that it is for."""

    certificate: x509.Certificate
    key: str

    @property
    def text(self) -> str:
        """As PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Authentication:
    """A record of how users authenticate; `network` is None for LOCAL."""

    name: str
    method: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    users: set[str] = field(default_factory=set)


@dataclass
class Security:
    """What a server holds of all that."""

    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    authentications: dict[str, Authentication] = field(default_factory=dict)
    certificate: str | None = None
    authorities: list[str] = field(default_factory=list)
    mode: str = "DISABLE"

    def key_text(self, name: str) -> str:
        """A private key as PEM."""
        return (
            self.keys[name]
            .private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
            .decode()
        )

    def method(self, user: str) -> str | None:
        """How a user who connects by IPv4 authenticates; None when no record is granted to the user."""
        for each in self.authentications.values():
            if user.casefold() in each.users and each.network is not None and each.network.version == 4:
                return each.method
        return None

    def context(self) -> ssl.SSLContext | None:
        """The TLS that the configuration says."""
        if self.mode == "DISABLE" or self.certificate is None:
            return None
        used = self.certificates[self.certificate]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as chain:
            chain.write(self.key_text(used.key) + used.text)
        try:
            context.load_cert_chain(chain.name)
        finally:
            os.unlink(chain.name)
        if self.mode != "ENABLE":
            context.verify_mode = ssl.CERT_OPTIONAL if self.mode == "TRY_VERIFY" else ssl.CERT_REQUIRED
            for name in self.authorities:
                context.load_verify_locations(cadata=self.certificates[name].text)
        return context


def _missing(what: str, name: str) -> VerticaError:
    return VerticaError("42704", 4570, f'{what} "{name}" does not exist')


def _exists(session: Session, what: str, name: str, known: object, skip: bool) -> bool:
    """Whether a thing that is to be dropped exists; a notice or an error where not."""
    if known:
        return True
    if not skip:
        raise _missing(what, name)
    session.put(wire.notice(4185, f"Nothing was dropped: {name} does not exist"))
    return False


def create_key(session: Session, reader: Reader) -> None:
    """CREATE KEY name TYPE 'RSA' LENGTH n."""
    security = session.server.security
    name = reader.name()
    reader.expect("TYPE")
    if reader.string().upper() != "RSA":
        raise VerticaError("22023", 5447, "Only RSA keys can be made here")
    reader.expect("LENGTH")
    length = reader.number()
    if name in security.keys:
        raise duplicate_object(name)
    security.keys[name] = rsa.generate_private_key(65537, length)


def drop_key(session: Session, reader: Reader) -> None:
    """DROP KEY [IF EXISTS] name [CASCADE]: CASCADE drops its certificates too."""
    security = session.server.security
    skip = reader.words("IF", "EXISTS")
    name = reader.name()
    cascade = reader.words("CASCADE")
    if not _exists(session, "Key", name, name in security.keys, skip):
        return
    used = [each for each, certificate in security.certificates.items() if certificate.key == name]
    if used and not cascade:
        raise VerticaError("2BV01", 3128, f"DROP failed due to dependencies: key {name} is used")
    for each in used:
        if each == security.certificate or each in security.authorities:
            raise VerticaError("2BV01", 3128, f"DROP failed due to dependencies: certificate {each} is used")
        del security.certificates[each]
    del security.keys[name]


def create_certificate(session: Session, reader: Reader) -> None:
    """CREATE CERTIFICATE name SUBJECT '...' [SIGNED BY ca] [VALID FOR days] [EXTENSIONS ...] KEY key."""
    _create_certificate(session, reader, authority=False)


def create_authority(session: Session, reader: Reader) -> None:
    """CREATE CA CERTIFICATE."""
    _create_certificate(session, reader, authority=True)


def _create_certificate(session: Session, reader: Reader, *, authority: bool) -> None:
    security = session.server.security
    name = reader.name()
    reader.expect("SUBJECT")
    subject = _name(reader.string())
    signer = reader.name() if reader.words("SIGNED", "BY") else None
    days = reader.number() if reader.words("VALID", "FOR") else 365
    extensions = _extensions(reader) if reader.words("EXTENSIONS") else {}
    reader.expect("KEY")
    key = reader.name()
    if key not in security.keys:
        raise _missing("Key", key)
    if signer is not None and signer not in security.certificates:
        raise _missing("Certificate", signer)
    if name in security.certificates:
        raise duplicate_object(name)
    issuer = security.certificates[signer] if signer is not None else None
    issuer_key = security.keys[issuer.key if issuer is not None else key]
    public, now = security.keys[key].public_key(), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(_usage(authority), critical=True)
    )
    if "extendedKeyUsage" in extensions:
        usage = _USAGES[extensions["extendedKeyUsage"]]
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if "subjectAltName" in extensions:
        builder = builder.add_extension(_alternative(extensions["subjectAltName"]), critical=False)
    security.certificates[name] = Certificate(builder.sign(issuer_key, hashes.SHA256()), key)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, content_commitment=False, key_encipherment=not authority,
        data_encipherment=False, key_agreement=False, key_cert_sign=authority, crl_sign=authority,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    pairs = re.findall(r"/(\w+)=([^/]*)", text)
    if not pairs:
        raise VerticaError("22023", 5447, f"Invalid subject: {text}")
    return x509.Name([x509.NameAttribute(_SUBJECT[key], value) for key, value in pairs])


def _extensions(reader: Reader) -> dict[str, str]:
    found: dict[str, str] = {}
    while True:
        key = reader.string()
        reader.expect_op("=")
        found[key] = reader.string()
        if not reader.op(","):
            return found


def _alternative(text: str) -> x509.SubjectAlternativeName:
    kind, _, value = text.partition(":")
    if kind == "IP":
        return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(value))])
    return x509.SubjectAlternativeName([x509.DNSName(value)])


def alter_tls(session: Session, reader: Reader) -> None:
    """ALTER TLS CONFIGURATION server [CERTIFICATE c] [ADD | REMOVE CA CERTIFICATES c, ...] [TLSMODE 'm']."""
    server = session.server
    security = server.security
    if reader.name().casefold() != "server":
        raise VerticaError("0A000", 4213, "Only the TLS configuration server is known here")
    while not reader.ended():
        if reader.words("CERTIFICATE"):
            security.certificate = None if reader.words("NULL") else _certificate(security, reader)
        elif reader.words("ADD", "CA", "CERTIFICATES"):
            security.authorities += _certificates(security, reader)
        elif reader.words("REMOVE", "CA", "CERTIFICATES"):
            gone = _certificates(security, reader)
            security.authorities = [each for each in security.authorities if each not in gone]
        elif reader.words("TLSMODE"):
            security.mode = reader.string().upper()
            if security.mode not in _MODES:
                raise VerticaError("22023", 5447, f"Invalid TLSMODE: {security.mode}")
        else:
            raise reader.fail()
    server.tls_context = security.context()


def _certificate(security: Security, reader: Reader) -> str:
    name = reader.name()
    if name not in security.certificates:
        raise _missing("Certificate", name)
    return name


def _certificates(security: Security, reader: Reader) -> list[str]:
    names = [_certificate(security, reader)]
    while reader.op(","):
        names.append(_certificate(security, reader))
    return names


def create_authentication(session: Session, reader: Reader) -> None:
    """CREATE AUTHENTICATION name METHOD 'm' {LOCAL | HOST 'network'}."""
    records = session.server.security.authentications
    name = reader.name()
    reader.expect("METHOD")
    method = reader.string().lower()
    if method not in _METHODS:
        raise VerticaError("0A000", 4213, f"Authentication by {method} is not supported by this test server")
    network = None
    if not reader.words("LOCAL"):
        reader.expect("HOST")
        network = ipaddress.ip_network(reader.string())
    if name.casefold() in records:
        raise duplicate_object(name)
    records[name.casefold()] = Authentication(name, method, network)


def drop_authentication(session: Session, reader: Reader) -> None:
    """DROP AUTHENTICATION [IF EXISTS] name [CASCADE]."""
    records = session.server.security.authentications
    skip = reader.words("IF", "EXISTS")
    name = reader.name()
    cascade = reader.words("CASCADE")
    if not _exists(session, "Authentication", name, name.casefold() in records, skip):
        return
    if records[name.casefold()].users and not cascade:
        raise VerticaError("2BV01", 3128, f"DROP failed due to dependencies: {name} is granted")
    del records[name.casefold()]


def grant_authentication(session: Session, reader: Reader) -> None:
    """GRANT AUTHENTICATION name TO user."""
    records = session.server.security.authentications
    name = reader.name()
    reader.expect("TO")
    user = reader.name()
    if name.casefold() not in records:
        raise _missing("Authentication", name)
    if user.casefold() not in session.server.catalog.users:
        raise VerticaError("42704", 4673, f'User "{user}" does not exist')
    records[name.casefold()].users.add(user.casefold())


def alter_user(session: Session, reader: Reader) -> None:
    """ALTER USER name {IDENTIFIED BY 'p' | PASSWORD EXPIRE | SECURITY_ALGORITHM 'a'}."""
    name = reader.name()
    user = session.server.catalog.users.get(name.casefold())
    if user is None:
        raise VerticaError("42704", 4673, f'User "{name}" does not exist')
    if reader.words("IDENTIFIED", "BY"):
        user.password, user.expired = reader.string(), False
    elif reader.words("PASSWORD", "EXPIRE"):
        user.expired = True
    elif reader.words("SECURITY_ALGORITHM"):
        algorithm = reader.string().upper()
        if algorithm not in ("NONE", "MD5", "SHA512"):
            raise VerticaError("22023", 5447, f"Invalid security algorithm: {algorithm}")
        # The stored hash is of the other algorithm: the password must be set anew.
        user.expired = user.expired or algorithm != user.algorithm
        user.algorithm = algorithm
    else:
        raise reader.fail()


def drop_user(session: Session, reader: Reader) -> None:
    """DROP USER [IF EXISTS] name."""
    server = session.server
    skip = reader.words("IF", "EXISTS")
    name = reader.name()
    cascade = reader.words("CASCADE")
    key = name.casefold()
    if not _exists(session, "User", name, key in server.catalog.users, skip):
        return
    if not cascade and any(each.owner.casefold() == key for each in server.catalog.tables()):
        raise VerticaError("2BV01", 3128, f"DROP failed due to dependencies: user {name} owns objects")
    with server.catalog.change:
        del server.catalog.users[key]
        server.catalog.grants = [each for each in server.catalog.grants if each.grantee != key]
    for record in server.security.authentications.values():
        record.users.discard(key)


#: Only a superuser may run them.
STATEMENTS: tuple[tuple[tuple[str, ...], Callable[[Session, Reader], None]], ...] = (
    (("CREATE", "KEY"), create_key),
    (("DROP", "KEY"), drop_key),
    (("CREATE", "CERTIFICATE"), create_certificate),
    (("CREATE", "CA", "CERTIFICATE"), create_authority),
    (("ALTER", "TLS", "CONFIGURATION"), alter_tls),
    (("CREATE", "AUTHENTICATION"), create_authentication),
    (("DROP", "AUTHENTICATION"), drop_authentication),
    (("GRANT", "AUTHENTICATION"), grant_authentication),
    (("ALTER", "USER"), alter_user),
    (("DROP", "USER"), drop_user),
)
