# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The NIST curves as numbers: which public points are acceptable (FIPS 186-5, SP 800-186 §3.2.1).

Only public values are computed with here; everything that touches a private key is done in the key store.
"""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import EccCurve
from ihsm_abi.ddi.formats import ECC_BY_CURVE, EccFormat
from ihsm_device.hsm.keystore import Curve as CurveId


@dataclass(frozen=True, slots=True)
class Curve:
    """A short Weierstrass curve y² = x³ − 3x + b over the prime field p."""

    p: int
    b: int
    form: EccFormat
    """Lengths and names on the wire."""

    @property
    def id(self) -> CurveId:
        """The curve's name in the key store."""
        return CurveId(self.form.curve)

    @property
    def size(self) -> int:
        """Bytes of a coordinate and of half a signature in canonical, big-endian form."""
        return self.form.coordinate_bytes


@dataclass(frozen=True, slots=True)
class Point:
    """An affine point as received: nothing is known about its coordinates yet."""

    curve: Curve
    x: int
    y: int

    @classmethod
    def from_uncompressed(cls, curve: Curve, encoded: bytes) -> "Point":
        """Point of the SEC 1 form 04 ‖ X ‖ Y, which must have the curve's length."""
        middle = 1 + curve.size
        return cls(curve, int.from_bytes(encoded[1:middle], "big"), int.from_bytes(encoded[middle:], "big"))

    @property
    def in_range(self) -> bool:
        """Whether both coordinates are in 1…p−1."""
        return 0 < self.x < self.curve.p and 0 < self.y < self.curve.p

    @property
    def on_curve(self) -> bool:
        """Whether the coordinates satisfy the curve's equation."""
        return (self.y * self.y - (self.x * self.x - 3) * self.x - self.curve.b) % self.curve.p == 0

    def uncompressed(self) -> bytes:
        """SEC 1 form 04 ‖ X ‖ Y, the form of the key store."""
        return b"\x04" + self.x.to_bytes(self.curve.size, "big") + self.y.to_bytes(self.curve.size, "big")

    def raw(self) -> bytes:
        """X ‖ Y, little-endian, each zero-filled to the physical wire length (spec 03 §6.3)."""
        size = self.curve.form.padded_bytes
        return self.x.to_bytes(size, "little") + self.y.to_bytes(size, "little")


P256: Final = Curve(
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    form=ECC_BY_CURVE[EccCurve.P256],
)
P384: Final = Curve(
    p=2**384 - 2**128 - 2**96 + 2**32 - 1,
    b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    form=ECC_BY_CURVE[EccCurve.P384],
)
P521: Final = Curve(
    p=2**521 - 1,
    b=int(
        "0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E156193951EC7E937B1652C0BD3BB1BF07"
        "3573DF883D2C34F1EF451FD46B503F00",
        16,
    ),
    form=ECC_BY_CURVE[EccCurve.P521],
)

BY_ID: Final = {curve.form.curve: curve for curve in (P256, P384, P521)}
BY_PRIVATE_TYPE: Final = {curve.form.private_type: curve for curve in BY_ID.values()}
