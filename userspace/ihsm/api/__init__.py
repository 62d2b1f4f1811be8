# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys by name, as objects that other libraries take: `Hsm`, and what it gives.

    with Hsm.open() as hsm:
        key = hsm.generate("web", "p256", usage="sign")
        signature = key.sign(b"message", ec.ECDSA(hashes.SHA256()))

A call goes through these layers: a key object (`ec_key`, `rsa_key`, ...) hashes and pads; its `Handle` knows where the
key rests; `Residents` bring it into the device; the `Connection` has the device, and brings it back when it was lost.
"""

from ihsm_abi.lazy_names import loader

_HOMES = {
    "AesCbcKey": "cbc",
    "AesGcmKey": "gcm",
    "AesXtsKey": "xts",
    "DeviceKey": "handles",
    "EcPrivateKey": "ec_key",
    "HmacKey": "hmac_key",
    "Hsm": "hsm",
    "InvalidCiphertextError": "errors",
    "KeyFacts": "facts",
    "KeyNotExportableError": "errors",
    "MacMismatchError": "errors",
    "NonceRefusedError": "errors",
    "RsaPrivateKey": "rsa_key",
    "SecretKey": "secret_key",
    "SignatureMismatchError": "errors",
    "TagMismatchError": "errors",
    "UnsupportedByDeviceError": "errors",
    "Usage": "kinds",
    "VerifiedReport": "attest",
}
"""Module of each name: loaded when used. Type checkers read the same from `__init__.pyi`."""

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
