# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operation codes (spec 03 §7; from 2001 on the firmware's own, §15)."""

from ihsm_abi.mbor import OpenEnum


class DdiOp(OpenEnum):
    """Operation codes; `Invalid` stands for a header that could not be decoded."""

    Invalid = 1001
    GetApiRev = 1002
    GetDeviceInfo = 1003
    DeleteKey = 1014
    OpenKey = 1015
    AttestKey = 1016
    RsaModExp = 1031
    RsaUnwrap = 1035
    GetUnwrappingKey = 1051
    EccGenerateKeyPair = 1061
    EccSign = 1062
    AesGenerateKey = 1071
    AesEncryptDecrypt = 1072
    EcdhKeyExchange = 1074
    HkdfDerive = 1075
    KbkdfCounterHmacDerive = 1076
    Hmac = 1077
    GetEstablishCredEncryptionKey = 1101
    EstablishCredential = 1102
    GetSessionEncryptionKey = 1103
    OpenSession = 1104
    CloseSession = 1105
    ChangePin = 1106
    UnmaskKey = 1107
    GetCertChainInfo = 1108
    GetCertificate = 1109
    ReopenSession = 1110
    InitBk3 = 1111
    GetSealedBk3 = 1112
    SetSealedBk3 = 1113
    ResetFunction = 2001
    DerKeyImport = 2002
    GetPerfLogChunk = 2003
    TestAction = 2004
    GetPrivKey = 2005
    ShaDigest = 2006
    GetRandomNumber = 2007
    RawKeyImport = 2008
    SoftAes = 2009
    RsaUnwrapKekTest = 2010
