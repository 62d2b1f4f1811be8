# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Test operations that only the firmware knows (spec 03 §15)."""

from typing import Annotated

from ihsm_abi.ddi.enums import HashAlgorithm, KeyClass, KeyType, RsaCryptoPadding
from ihsm_abi.ddi.types import DerPublicKey, TargetKeyProperties
from ihsm_abi.mbor import U8, U16, U32, U64, Bool, Enum32, FixedOctets, MborMap, Nested, Octets, OpenEnum


class TestAction(OpenEnum):
    """What a TestAction does."""

    Level1SkipIo = 1
    SetLevel2SkipIo = 2
    ClearLevel2SkipIo = 3
    InvalidateCertSizeCache = 4
    TriggerIoFailure = 5
    TriggerDmaOutFailure = 6
    TriggerDmaEndFailure = 7
    TriggerCrash = 8
    ExecuteNegativeSelfTest = 9
    PinPolicyOverride = 10
    PinPolicyClear = 11
    ForcePkaInstance = 12
    TriggerRngHwFailure = 13
    ToggleFipsApprovedState = 14
    TriggerNegativePctFailure = 15
    TriggerEccError = 16
    TriggerTdispInterrupt = 17
    ClearUserCredentials = 18
    ClearProvisioningState = 19
    UpdateSvn = 20
    TriggerGdmaError = 21
    ClearBk3 = 22
    TriggerStackValidation = 23
    TriggerUcdError = 24


class TestActionCrashType(OpenEnum):
    """How to crash."""

    HardFault = 1
    ExplicitCrash = 2
    Panic = 3
    Hang = 4


class TestStackErrorType(OpenEnum):
    """Stack fault to provoke."""

    StackOverflow = 1
    StackGuardViolation = 2


class TestActionEccErrorType(OpenEnum):
    """Memory fault to inject."""

    DtcmDoubleBit = 1
    ItcmDoubleBit = 2
    GsramDoubleBit = 3
    CdmaSingleBit = 4
    CdmaEccErrIntrCount = 5


class TestActionGDMAErrorType(OpenEnum):
    """Fault of the general DMA engine."""

    GdmaDataStructureErrorBit = 1
    GdmaDataAccessErrorBit = 2
    GdmaDeliveryQueueErrorBit = 3
    GdmaCompletionQueueErrorBit = 4


class TestActionUCDErrorType(OpenEnum):
    """Fault of the command dispatcher."""

    UcdIbDflOverflowError = 1
    UcdIbQueueOverflowError = 2
    UcdObQueueFullError = 3
    UcdIbDataParityError = 4
    UcdIbCqFullError = 5


class TestActionInterruptSimulationType(OpenEnum):
    """Interrupt to simulate."""

    Tdisp = 1
    Ide = 2
    Flr = 3
    PerstUp = 4
    PerstDown = 5


class TestActionSocCpuId(OpenEnum):
    """Processor of the chip."""

    Admin = 0
    Hsm = 1
    Fp0 = 2
    Fp1 = 3
    Fp2 = 4


class SoftAesOp(OpenEnum):
    """Operation of SoftAes."""

    Kwp = 0
    EcbDecrypt = 1


class TestActionCrashReqInfo(MborMap):
    """Parameters of TriggerCrash."""

    crash_type: Annotated[TestActionCrashType, Enum32(1)]
    cpu_id: Annotated[TestActionSocCpuId, Enum32(2)]


class TestActionPinPolicyConfig(MborMap):
    """Parameters of PinPolicyOverride."""

    delay_increment: Annotated[int | None, U16(1)] = None
    state: Annotated[bool | None, Bool(2)] = None
    delay: Annotated[int | None, U16(3)] = None
    allowed_attempts: Annotated[int | None, U16(4)] = None
    lockout_delay: Annotated[int | None, U32(5)] = None


class TestActionEccErrorInfo(MborMap):
    """Parameters of TriggerEccError."""

    ecc_error_type: Annotated[TestActionEccErrorType, Enum32(1)]
    cpu_id: Annotated[TestActionSocCpuId, Enum32(2)]


class TestActionStackValidationInfo(MborMap):
    """Parameters of TriggerStackValidation."""

    error_type: Annotated[TestStackErrorType, Enum32(1)]
    cpu_id: Annotated[TestActionSocCpuId, Enum32(2)]


class ResetFunctionReq(MborMap):
    """2001 ResetFunction request."""


class ResetFunctionResp(MborMap):
    """2001 ResetFunction response."""


class DerKeyImportReq(MborMap):
    """2002 DerKeyImport request."""

    der: Annotated[bytes, Octets(1, 3072, secret=True)]
    key_class: Annotated[KeyClass, Enum32(2)]
    key_tag: Annotated[int | None, U16(3)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(4)]


class DerKeyImportResp(MborMap):
    """2002 DerKeyImport response."""

    key_id: Annotated[int, U16(1)]
    pub_key: Annotated[DerPublicKey | None, Nested(2)] = None
    bulk_key_id: Annotated[int | None, U16(3)] = None
    key_type: Annotated[KeyType, Enum32(4)]
    masked_key: Annotated[bytes, Octets(5, 3072)]


class GetPerfLogChunkReq(MborMap):
    """2003 GetPerfLogChunk request."""

    chunk_id: Annotated[int, U16(1)]


class GetPerfLogChunkResp(MborMap):
    """2003 GetPerfLogChunk response."""

    chunk: Annotated[bytes, FixedOctets(1, 2048)]
    chunk_len: Annotated[int, U16(2)]


class TestActionReq(MborMap):
    """2004 TestAction request."""

    action: Annotated[TestAction, Enum32(1)]
    crash_info: Annotated[TestActionCrashReqInfo | None, Nested(2)] = None
    neg_test_id: Annotated[int | None, U32(3)] = None
    pin_policy_config: Annotated[TestActionPinPolicyConfig | None, Nested(4)] = None
    force_pka_instance: Annotated[int | None, U8(5)] = None
    neg_pct_skip_cnt: Annotated[int | None, U8(6)] = None
    ecc_error_info: Annotated[TestActionEccErrorInfo | None, Nested(7)] = None
    tdisp_interrupt_type: Annotated[TestActionInterruptSimulationType | None, Enum32(8)] = None
    updated_svn: Annotated[int | None, U64(9)] = None
    gdma_error_type: Annotated[TestActionGDMAErrorType | None, Enum32(10)] = None
    stack_validation_info: Annotated[TestActionStackValidationInfo | None, Nested(11)] = None
    ucd_error_type: Annotated[TestActionUCDErrorType | None, Enum32(12)] = None


class TestActionResp(MborMap):
    """2004 TestAction response."""

    result: Annotated[int | None, U32(1)] = None


class GetPrivKeyReq(MborMap):
    """2005 GetPrivKey request."""

    key_id: Annotated[int, U16(1)]


class GetPrivKeyResp(MborMap):
    """2005 GetPrivKey response."""

    key_kind: Annotated[KeyType, Enum32(1)]
    key_data: Annotated[bytes, Octets(2, 2564, secret=True)]


class ShaDigestGenerateReq(MborMap):
    """2006 ShaDigest request."""

    sha_mode: Annotated[HashAlgorithm, Enum32(1)]
    msg: Annotated[bytes, Octets(2, 1024, secret=True)]


class ShaDigestGenerateResp(MborMap):
    """2006 ShaDigest response."""

    digest: Annotated[bytes, Octets(1, 64, secret=True)]


class GetRngGenerateReq(MborMap):
    """2007 GetRandomNumber request."""

    rng_len: Annotated[int, U8(1)]


class GetRngGenerateResp(MborMap):
    """2007 GetRandomNumber response."""

    rng_number: Annotated[bytes, Octets(1, 64, secret=True)]


class RawKeyImportReq(MborMap):
    """2008 RawKeyImport request."""

    raw: Annotated[bytes, Octets(1, 3072, secret=True)]
    key_kind: Annotated[KeyType, Enum32(2)]
    key_tag: Annotated[int | None, U16(3)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(4)]


class RawKeyImportResp(MborMap):
    """2008 RawKeyImport response."""

    key_id: Annotated[int, U16(1)]
    bulk_key_id: Annotated[int | None, U16(2)] = None
    masked_key: Annotated[bytes, Octets(3, 3072)]


class SoftAesReq(MborMap):
    """2009 SoftAes request."""

    key: Annotated[bytes, Octets(1, 32, secret=True)]
    inout: Annotated[bytes, Octets(2, 1024, secret=True)]
    op: Annotated[SoftAesOp, Enum32(3)]


class SoftAesResp(MborMap):
    """2009 SoftAes response."""

    plaintext: Annotated[bytes, Octets(1, 1024, secret=True)]


class RsaUnwrapKekReq(MborMap):
    """2010 RsaUnwrapKekTest request."""

    key_id: Annotated[int, U16(1)]
    wrapped_blob: Annotated[bytes, Octets(2, 3072)]
    wrapped_blob_padding: Annotated[RsaCryptoPadding, Enum32(3)]
    wrapped_blob_hash_algorithm: Annotated[HashAlgorithm, Enum32(4)]


class RsaUnwrapKekResp(MborMap):
    """2010 RsaUnwrapKekTest response."""

    kek: Annotated[bytes, Octets(1, 256, secret=True)]
