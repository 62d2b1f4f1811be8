# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Certification paths: what RFC 5280 §6.1 refuses is refused, whoever restricts it, and nothing else is."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.ddi import CertificateChain, CertificateChainError, Partition
from ihsm.ddi.certificates import chain_thumbprint, load_certificates, order_chain
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ArgumentError
from support.certificates import certificate, name

REAL_LEAF_CONSTRAINTS = bytes.fromhex("3003020100")
OID = x509.ObjectIdentifier("1.2.3.4.5")
UNKNOWN = x509.UnrecognizedExtension(OID, b"\x05\x00")
Parts = dict[str, Any]


def chain(root: Parts | None = None, alias: Parts | None = None, leaf: Parts | None = None) -> CertificateChain:
    der = (
        certificate(0, **{"path_length": 1} | (root or {})),
        certificate(1, **{"path_length": 0} | (alias or {})),
        certificate(2, **{"ca": False} | (leaf or {})),
    )
    return CertificateChain(der, chain_thumbprint(der))


def refused(bad: CertificateChain, text: str, **how: Any) -> None:
    with pytest.raises(CertificateChainError, match=text):
        bad.verify(**how)


def directory(*values: str, oid: x509.ObjectIdentifier = NameOID.COMMON_NAME) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for value in values])


@pytest.mark.parametrize("profile", ["default", "firmware"])
def test_the_chains_of_both_profiles_verify(profile: str) -> None:
    with (
        EmbeddedDevice(["--profile", profile]) as device,
        Controller(VfioUserFunction(device.socket_path)) as controller,
    ):
        found = Partition(controller).certificate_chain()
    found.verify([found.certificates[0]], strict_leaf=False)
    if profile == "default":
        found.verify()
    else:
        refused(found, "extensions do not parse")


@pytest.mark.parametrize("where", ["root", "alias", "leaf"])
@pytest.mark.parametrize(
    "extension",
    [
        UNKNOWN,
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), b"\x30\x00"),
        x509.PolicyConstraints(0, None),
        x509.InhibitAnyPolicy(0),
        x509.CertificatePolicies([x509.PolicyInformation(OID, None)]),
        x509.CRLDistributionPoints([x509.DistributionPoint([x509.DNSName("a")], None, None, None)]),
    ],
    ids=lambda extension: type(extension).__name__,
)
def test_critical_extensions_that_are_not_processed(where: str, extension: x509.ExtensionType) -> None:
    text = f"unknown critical extension {extension.oid.dotted_string}"
    refused(chain(**{where: {"more": [(extension, True)]}}), text, strict_leaf=False)
    chain(**{where: {"more": [(extension, False)]}}).verify()


def test_the_real_leaf_is_excused_for_one_mistake_alone() -> None:
    def leaf(**more: Any) -> CertificateChain:
        return chain(leaf={"leaf_constraints": REAL_LEAF_CONSTRAINTS} | more)

    leaf().verify(strict_leaf=False)
    refused(leaf(), "extensions do not parse")
    refused(leaf(more=[(UNKNOWN, True)]), "unknown critical", strict_leaf=False)
    refused(leaf(usages=["key_agreement"]), "key usage", strict_leaf=False)
    other = {"leaf_constraints": bytes.fromhex("3003020101")}
    refused(chain(leaf=other), "extensions do not parse", strict_leaf=False)
    twice = x509.UnrecognizedExtension(OID, bytes.fromhex("0603551D130101FF04053003020100"))
    refused(leaf(more=[(twice, False)]), "extensions do not parse", strict_leaf=False)
    in_a_ca = {"leaf_constraints": REAL_LEAF_CONSTRAINTS}
    refused(chain(alias=in_a_ca), "extensions do not parse", strict_leaf=False)


@pytest.mark.parametrize(
    ("usages", "passes"),
    [
        (["digital_signature"], True),
        (["digital_signature", "key_agreement"], True),
        (["key_agreement"], False),
        (["content_commitment"], False),
        (["key_encipherment", "crl_sign"], False),
    ],
)
def test_the_leafs_key_usage(usages: list[str], passes: bool) -> None:
    made = chain(leaf={"usages": usages})
    if passes:
        made.verify()
    else:
        refused(made, "certificate 2 .*key usage does not allow it to sign reports")


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize(
    ("purpose", "passes"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, False),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, True),
        (x509.ObjectIdentifier("2.23.133.5.4.100.8"), True),
        (x509.ObjectIdentifier("2.23.133.5.4.100.9"), True),
    ],
)
def test_the_leafs_purposes(purpose: x509.ObjectIdentifier, passes: bool, critical: bool) -> None:
    made = chain(leaf={"more": [(x509.ExtendedKeyUsage([purpose]), critical)]})
    if passes:
        made.verify()
    else:
        refused(made, "extended key usage does not allow it to sign reports")


def test_the_purposes_of_a_ca() -> None:
    eca = x509.ObjectIdentifier("2.23.133.5.4.100.12")
    chain(alias={"more": [(x509.ExtendedKeyUsage([eca]), True)]}).verify()
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    chain(alias={"more": [(server, False)]}).verify()
    refused(chain(alias={"more": [(server, True)]}), "certificate 1 .*extended key usage")


@pytest.mark.parametrize("usages", [["digital_signature"], ["crl_sign"]])
def test_a_ca_that_may_not_sign_certificates(usages: list[str]) -> None:
    refused(chain(alias={"usages": usages}), "certificate 1 .*no CA")


def subject(number: int) -> x509.DirectoryName:
    return x509.DirectoryName(name(number))


GROUP = directory("Group", oid=NameOID.ORGANIZATION_NAME)
IN_GROUP = x509.Name([*GROUP, *directory("partition")])


@pytest.mark.parametrize(
    ("permitted", "excluded", "leaf", "passes"),
    [
        ([subject(2)], None, {}, True),
        ([subject(1)], None, {}, False),
        ([subject(1), subject(2)], None, {}, True),
        (None, [subject(2)], {}, False),
        (None, [subject(1)], {}, True),
        (None, [x509.DirectoryName(directory("CERTIFICATE  2 "))], {}, False),
        ([subject(2)], [subject(2)], {}, False),
        ([x509.DirectoryName(GROUP)], None, {"subject": IN_GROUP}, True),
        ([x509.DirectoryName(IN_GROUP)], None, {"subject": GROUP}, False),
        ([x509.DirectoryName(x509.Name([]))], None, {}, True),
        (None, [x509.DirectoryName(x509.Name([]))], {}, False),
        ([x509.DNSName("example.org")], None, {}, True),
    ],
)
def test_constraints_on_directory_names(permitted: Any, excluded: Any, leaf: Parts, passes: bool) -> None:
    made = chain(alias={"more": [(x509.NameConstraints(permitted, excluded), True)]}, leaf=leaf)
    if passes:
        made.verify()
    else:
        refused(made, "certificate 2 .*name constraint")


NETWORK = ipaddress.ip_network("10.1.0.0/16")
FORMS = [
    (x509.DNSName("example.org"), x509.DNSName("a.EXAMPLE.org"), x509.DNSName("badexample.org")),
    (x509.DNSName(".example.org"), x509.DNSName("a.example.org"), x509.DNSName("example.com")),
    (x509.RFC822Name("example.org"), x509.RFC822Name("me@EXAMPLE.org"), x509.RFC822Name("me@a.example.org")),
    (x509.RFC822Name(".example.org"), x509.RFC822Name("me@a.example.org"), x509.RFC822Name("me@example.org")),
    (x509.RFC822Name("me@example.org"), x509.RFC822Name("me@example.org"), x509.RFC822Name("you@example.org")),
    (
        x509.UniformResourceIdentifier(".example.org"),
        x509.UniformResourceIdentifier("https://user@a.example.org:1/b"),
        x509.UniformResourceIdentifier("https://example.org.evil/"),
    ),
    (
        x509.IPAddress(NETWORK),
        x509.IPAddress(ipaddress.ip_address("10.1.2.3")),
        x509.IPAddress(ipaddress.ip_address("10.2.0.1")),
    ),
    (
        x509.IPAddress(NETWORK),
        x509.IPAddress(ipaddress.ip_address("10.1.255.255")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ),
]


@pytest.mark.parametrize(("base", "inside", "outside"), FORMS)
def test_constraints_on_alternative_names(base: Any, inside: Any, outside: Any) -> None:
    def leaf(name: x509.GeneralName) -> Parts:
        return {"more": [(x509.SubjectAlternativeName([name]), True)]}

    permits = {"more": [(x509.NameConstraints([base], None), True)]}
    excludes = {"more": [(x509.NameConstraints(None, [base]), True)]}
    chain(alias=permits, leaf=leaf(inside)).verify()
    chain(alias=excludes, leaf=leaf(outside)).verify()
    refused(chain(alias=permits, leaf=leaf(outside)), "not permitted")
    refused(chain(alias=excludes, leaf=leaf(inside)), "excluded")


def test_names_whose_constraints_are_not_known_here() -> None:
    form = x509.RegisteredID(OID)
    alias = {"more": [(x509.NameConstraints([form], None), True)]}
    chain(alias=alias).verify()  # no certificate below has such a name
    refused(chain(alias=alias, leaf={"more": [(x509.SubjectAlternativeName([form]), False)]}), "not known here")
    alias = {"more": [(x509.NameConstraints([x509.UniformResourceIdentifier("a.org")], None), True)]}
    no_host = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:nothing")])
    refused(chain(alias=alias, leaf={"more": [(no_host, False)]}), "names no host")


def test_a_mailbox_in_the_subject() -> None:
    alias = {"more": [(x509.NameConstraints([x509.RFC822Name("example.org")], None), True)]}
    chain(alias=alias, leaf={"subject": directory("me@example.org", oid=NameOID.EMAIL_ADDRESS)}).verify()
    outside = directory("me@example.com", oid=NameOID.EMAIL_ADDRESS)
    refused(chain(alias=alias, leaf={"subject": outside}), "not permitted")


def test_constraints_from_two_levels_hold_together() -> None:
    """Those of the root, too: its owner restricts whom it vouches for."""
    both = [subject(1), subject(2)]

    def constrained(root: Any, alias: Any) -> CertificateChain:
        return chain(
            root={"more": [(x509.NameConstraints(root, None), True)]},
            alias={"more": [(x509.NameConstraints(alias, None), False)]},
        )

    constrained(both, [subject(2)]).verify()
    refused(constrained([subject(1)], both), "certificate 2")
    refused(constrained(both, [subject(1)]), "certificate 2")
    refused(constrained([subject(2)], both), "certificate 1")


def test_broken_algorithms_and_short_keys() -> None:
    refused(chain(alias={"key": rsa.generate_private_key(65537, 1024).public_key()}), "certificate")
    short = rsa.generate_private_key(65537, 1024).public_key()
    refused(chain(leaf={"key": short}), "certificate 2 .*1024 bits")


def test_an_empty_chain_and_a_time_without_zone() -> None:
    empty = CertificateChain((), bytes(32))
    refused(empty, "no certificate")
    for ask in (lambda: empty.identity_key, lambda: empty.root_fingerprint):
        with pytest.raises(CertificateChainError, match="no certificate"):
            ask()
    with pytest.raises(ArgumentError, match=r"CertificateChain\.verify: at: "):
        chain().verify(at=datetime.datetime(2026, 1, 1))


GOOD = chain()


@settings(max_examples=300)
@given(number=st.integers(0, 2), position=st.integers(0, 2000), flip=st.integers(1, 255))
def test_a_changed_byte_is_an_error_of_the_chain(number: int, position: int, flip: int) -> None:
    """Of the chain's type, whatever the library makes of it: another version, key, algorithm, date or extension."""
    der = list(GOOD.der)
    changed = bytearray(der[number])
    changed[position % len(changed)] ^= flip
    der[number] = bytes(changed)
    bad = CertificateChain(tuple(der), chain_thumbprint(der))
    try:
        bad.verify()
    except CertificateChainError:
        return
    # The number of unused bits before a signature is not signed.
    before, after = GOOD.certificates[number], bad.certificates[number]
    assert (before.tbs_certificate_bytes, before.signature) == (after.tbs_certificate_bytes, after.signature)


def test_a_chain_of_other_keys_than_p384_has_no_identity() -> None:
    with pytest.raises(CertificateChainError, match="no P-384 key"):
        _ = chain(leaf={"key": ec.generate_private_key(ec.SECP521R1()).public_key()}).identity_key


def test_sha1_is_no_signature(tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha1 -nodes -subj /CN=old -days 9999"
    usage = ["-addext", "keyUsage=critical,digitalSignature", "-keyout", "key", "-out", "old.pem"]
    subprocess.run([*command.split(), *usage], cwd=tmp_path, capture_output=True, check=True)
    old = load_certificates((tmp_path / "old.pem").read_bytes(), "old.pem")
    refused(order_chain(old), "certificate 0 .*signature algorithm")


def test_what_the_library_warns_of_is_no_further_line(recwarn: pytest.WarningsRecorder) -> None:
    """A serial number of 0, for one."""
    der = bytearray(GOOD.der[2])
    start = der.index(GOOD.certificates[2].serial_number.to_bytes(20, "big").lstrip(b"\0"))
    der[start] |= 0x80
    bad = CertificateChain((*GOOD.der[:2], bytes(der)), bytes(32))
    refused(bad, "thumbprint")
    assert not recwarn.list
