# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""NIST's vectors of ECDSA and ECDH through the device's operations."""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ihsm.ddi import StatusError
from ihsm.ddi.pota import der_signature
from ihsm.ddi.wrapping import HASHES
from ihsm_abi.ddi import DdiStatus, EccCurve, HashAlgorithm, KeyClass, KeyType
from ihsm_abi.ddi.formats import ECC_BY_CURVE
from support import cavp
from support.vectors import DERIVE, SIGN, VectorBench, amounts, spread


class Curve(NamedTuple):
    """A curve in the words of the files, of the other library and of the device."""

    name: str
    other: ec.EllipticCurve
    id: EccCurve
    secret: KeyType
    agreement: str

    @property
    def size(self) -> int:
        return ECC_BY_CURVE[self.id].coordinate_bytes

    def spki(self, x: int, y: int) -> bytes:
        """SubjectPublicKeyInfo, of points too that are none."""
        form = ECC_BY_CURVE[self.id]
        return form.spki_prefix + b"\x04" + x.to_bytes(self.size, "big") + y.to_bytes(self.size, "big")


CURVES: Final = (
    Curve("P-256", ec.SECP256R1(), EccCurve.P256, KeyType.Secret256, "EC - SHA256"),
    Curve("P-384", ec.SECP384R1(), EccCurve.P384, KeyType.Secret384, "ED - SHA384"),
    Curve("P-521", ec.SECP521R1(), EccCurve.P521, KeyType.Secret521, "EE - SHA512"),
)
ALGORITHMS: Final = {
    "SHA-1": HashAlgorithm.Sha1,
    "SHA-256": HashAlgorithm.Sha256,
    "SHA-384": HashAlgorithm.Sha384,
    "SHA-512": HashAlgorithm.Sha512,
}
INVALID_PEER: Final = (DdiStatus.EccPublicKeyValidationFailed, DdiStatus.EccPointValidationFailed)
curves = pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)


@curves
@amounts
def test_ecdsa(bench: VectorBench, curve: Curve, amount: int | None) -> None:
    """The device's signatures under NIST's keys verify under NIST's public keys; its nonces are its own."""
    cases = (
        (ALGORITHMS[section.split(",")[1]], case)
        for section, case in cavp.cases("asymmetric/ECDSA/FIPS_186-3/SigGen.txt")
        if section.split(",")[0] == curve.name and section.split(",")[1] in ALGORITHMS
    )
    for algorithm, case in spread(cases, amount):
        public = ec.EllipticCurvePublicNumbers(int(case["Qx"], 16), int(case["Qy"], 16), curve.other).public_key()
        hasher = hashes.Hash(HASHES[algorithm]())
        hasher.update(bytes.fromhex(case["Msg"]))
        digest = hasher.finalize()
        scalar = int(case["d"], 16).to_bytes(curve.size, "big")
        with bench.raw(scalar, ECC_BY_CURVE[curve.id].private_type, SIGN) as key:
            signature = der_signature(bench.session.ecc_sign(key, digest, algorithm))
        public.verify(signature, digest, ec.ECDSA(Prehashed(HASHES[algorithm]())))


@curves
@amounts
def test_key_pairs(bench: VectorBench, curve: Curve, amount: int | None) -> None:
    """The public half of an imported key is NIST's; no other curve of the file has coordinates of the same length."""
    found = cavp.cases("asymmetric/ECDSA/FIPS_186-3/KeyPair.rsp")
    cases = (case for _, case in found if len(case.get("Qx", "")) == 2 * curve.size)
    for case in spread(cases, amount):
        public = ec.EllipticCurvePublicNumbers(int(case["Qx"], 16), int(case["Qy"], 16), curve.other)
        own = ec.EllipticCurvePrivateNumbers(int(case["d"], 16), public).private_key()
        with bench.private(own, KeyClass.Ecc, SIGN) as key:
            assert key.public_key.public_numbers() == public


@curves
@amounts
def test_public_key_validation(bench: VectorBench, curve: Curve, amount: int | None) -> None:
    """ECDH takes the peers that NIST calls valid and refuses the others."""
    limit = 1 << (8 * curve.size)
    cases = (case for section, case in cavp.cases("asymmetric/ECDSA/FIPS_186-3/PKV.rsp") if section == curve.name)
    numbers = [(int(case["Qx"], 16), int(case["Qy"], 16), case["Result"].startswith("P")) for case in cases]
    pair = bench.session.generate_ecc_key(curve.id, DERIVE)
    with bench.temporary(pair):
        for x, y, valid in spread([entry for entry in numbers if max(entry[:2]) < limit], amount):
            if valid:
                with bench.temporary(bench.session.ecdh(pair, curve.spki(x, y), curve.secret, DERIVE)):
                    continue
            with pytest.raises(StatusError) as refused:
                bench.session.ecdh(pair, curve.spki(x, y), curve.secret, DERIVE)
            assert refused.value.status in INVALID_PEER


@curves
@amounts
def test_ecdh(bench: VectorBench, curve: Curve, amount: int | None) -> None:
    """KAS ECC CDH: the shared secret is NIST's Z; a peer that is no point of the curve is refused."""
    path = "asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_resp.fax"
    cases = [case for section, case in cavp.cases(path) if section == curve.agreement and "Z" in case]
    for case in spread([case for case in cases if case["Result"].startswith("P")], amount):
        assert agree(bench, curve, case) == int(case["Z"], 16).to_bytes(curve.size, "big")
    for case in spread([case for case in cases if "CAVS's Static public key" in case["Result"]], amount):
        with pytest.raises(StatusError) as refused:
            agree(bench, curve, case)
        assert refused.value.status in INVALID_PEER


def agree(bench: VectorBench, curve: Curve, case: dict[str, str]) -> bytes:
    """The device's secret of a case."""
    scalar = int(case["dsIUT"], 16).to_bytes(curve.size, "big")
    with bench.raw(scalar, ECC_BY_CURVE[curve.id].private_type, DERIVE) as pair:
        peer = curve.spki(int(case["QsCAVSx"], 16), int(case["QsCAVSy"], 16))
        with bench.temporary(bench.session.ecdh(pair, peer, curve.secret, DERIVE)) as secret:
            return bench.reveal(secret)[: curve.size]
