# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""dnspython signs a zone (DNSSEC, RFC 4034) with the keys as they are; BIND's dnssec-verify verifies."""

from __future__ import annotations

from pathlib import Path

import dns.dnssec
import dns.name
import dns.zone
import pytest
from dns.dnssectypes import Algorithm

from ihsm.api.errors import UnsupportedByDeviceError
from libraries.judges import run
from libraries.rig import Does, Keys, Signs

ZONE = """
$TTL 3600
@    SOA ns.a.test. admin.a.test. 1 7200 900 1209600 86400
@    NS  ns.a.test.
ns   A   192.0.2.1
www  A   192.0.2.2
www  TXT "text"
"""
KINDS = [
    ("p256", Algorithm.ECDSAP256SHA256),
    ("p384", Algorithm.ECDSAP384SHA384),
    ("rsa2048", Algorithm.RSASHA256),
    ("rsa2048", Algorithm.RSASHA512),
]


@pytest.mark.parametrize(("kind", "algorithm"), KINDS)
def test_a_zone_is_signed_in_the_device(
    kind: str, algorithm: Algorithm, keys: Keys, signs: Signs, tmp_path: Path
) -> None:
    key = keys(kind)
    zone = dns.zone.from_text(ZONE, "a.test.", relativize=False)
    dnskey = dns.dnssec.make_dnskey(key.public_key(), algorithm, flags=257)
    with signs(key, 9):  # SOA, NS, DNSKEY and NSEC of the apex; A and NSEC of ns; A, TXT and NSEC of www
        dns.dnssec.sign_zone(zone, keys=[(key, dnskey)], lifetime=86400, deterministic=False)
    place = tmp_path / "a.test"
    zone.to_file(str(place), relativize=False)
    verify = ["dnssec-verify", "-z", "-o", "a.test", place]
    assert b"Zone fully signed" in run(*verify)
    place.write_text(place.read_text().replace("192.0.2.2", "192.0.2.3"))
    run(*verify, succeeds=False)


def test_signatures_that_must_be_the_same_each_time_are_refused(keys: Keys, does: Does) -> None:
    """dnspython's default for EC, RFC 6979: the device cannot, and nothing signs in its place."""
    key = keys("p256")
    zone = dns.zone.from_text(ZONE, "a.test.", relativize=False)
    dnskey = dns.dnssec.make_dnskey(key.public_key(), Algorithm.ECDSAP256SHA256, flags=257)
    with does(), pytest.raises(UnsupportedByDeviceError, match="RFC 6979"):
        dns.dnssec.sign_zone(zone, keys=[(key, dnskey)], lifetime=86400)
