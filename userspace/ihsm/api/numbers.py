# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Private numbers without the private ones: libraries ask for them to get at the public ones (paramiko, for one)."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ihsm.api.errors import KeyNotExportableError


class _WithheldNumbers:
    """As pyca's, these are equal where the keys are, which the public numbers say as well as the private ones."""

    def __init__(self, public_numbers: Any, key_name: str) -> None:
        """`key_name` is for messages."""
        self.public_numbers = public_numbers
        self.key_name = key_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.public_numbers == other.public_numbers

    def __hash__(self) -> int:
        return hash(self.public_numbers)


class _Withheld:
    """A number that the device does not give away."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> _Withheld:
        if instance is None:  # asked of the class, by what documents or inspects it
            return self
        raise KeyNotExportableError(
            f"private_numbers().{self._name}", f"{instance.key_name} is in the device and does not leave it"
        )


class WithheldEcNumbers(_WithheldNumbers):
    """Stands for `ec.EllipticCurvePrivateNumbers`."""

    public_numbers: ec.EllipticCurvePublicNumbers

    private_value = _Withheld()
    private_key = _Withheld()


class WithheldRsaNumbers(_WithheldNumbers):
    """Stands for `rsa.RSAPrivateNumbers`."""

    public_numbers: rsa.RSAPublicNumbers

    p = _Withheld()
    q = _Withheld()
    d = _Withheld()
    dmp1 = _Withheld()
    dmq1 = _Withheld()
    iqmp = _Withheld()
    private_key = _Withheld()
