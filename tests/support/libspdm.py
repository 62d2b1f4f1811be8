# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""DMTF's libspdm as a requester of a device: its library in ABI mode, its transport an exchange of data objects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import cffi

from bootstrap import libspdm
from ihsm_abi.doe import DataObject
from ihsm_abi.spdm.algorithms import (
    HASHLIB_NAMES,
    Aead,
    BaseAsym,
    BaseHash,
    Dhe,
    KeySchedule,
    MeasurementHash,
    OpaqueFormat,
)
from ihsm_abi.spdm.codes import MAX_MESSAGE_BYTES, Capability, MeasurementAttributes, MeasurementOperation, SummaryType

_DECLARATIONS: Final = """
    typedef uint32_t status_t;
    enum data_type {
        SPDM_VERSION, SECURED_MESSAGE_VERSION, CAPABILITY_FLAGS, CAPABILITY_CT_EXPONENT, CAPABILITY_RTT_US,
        CAPABILITY_DATA_TRANSFER_SIZE, CAPABILITY_MAX_SPDM_MSG_SIZE, CAPABILITY_SENDER_DATA_TRANSFER_SIZE,
        MEASUREMENT_SPEC, MEASUREMENT_HASH_ALGO, BASE_ASYM_ALGO, BASE_HASH_ALGO, DHE_NAME_GROUP, AEAD_CIPHER_SUITE,
        REQ_BASE_ASYM_ALG, KEY_SCHEDULE, OTHER_PARAMS_SUPPORT, MEL_SPEC, CONNECTION_STATE, RESPONSE_STATE,
        LOCAL_PUBLIC_CERT_CHAIN, PEER_PUBLIC_ROOT_CERT
    };
    enum data_location { LOCAL, CONNECTION };
    typedef struct { enum data_location location; uint8_t additional_data[4]; } data_parameter_t;
    typedef status_t (*send_t)(void *, size_t, const void *, uint64_t);
    typedef status_t (*receive_t)(void *, size_t *, void **, uint64_t);
    typedef status_t (*acquire_t)(void *, void **);
    typedef void (*release_t)(void *, const void *);

    size_t libspdm_get_context_size(void);
    status_t libspdm_init_context(void *);
    void libspdm_deinit_context(void *);
    void libspdm_register_device_io_func(void *, send_t, receive_t);
    void libspdm_register_device_buffer_func(
        void *, uint32_t, uint32_t, acquire_t, release_t, acquire_t, release_t);
    void libspdm_register_transport_layer_func(void *, uint32_t, uint32_t, uint32_t, void *, void *);
    void libspdm_transport_pci_doe_encode_message(void);
    void libspdm_transport_pci_doe_decode_message(void);
    size_t libspdm_get_sizeof_required_scratch_buffer(void *);
    void libspdm_set_scratch_buffer(void *, void *, size_t);
    bool libspdm_check_context(void *);
    status_t libspdm_set_data(void *, enum data_type, const data_parameter_t *, void *, size_t);
    status_t libspdm_get_data(void *, enum data_type, const data_parameter_t *, void *, size_t *);

    status_t libspdm_init_connection(void *, bool);
    status_t libspdm_get_digest(void *, const uint32_t *, uint8_t *, void *);
    status_t libspdm_get_certificate(void *, const uint32_t *, uint8_t, size_t *, void *);
    status_t libspdm_challenge(void *, void *, uint8_t, uint8_t, void *, uint8_t *);
    status_t libspdm_get_measurement(
        void *, const uint32_t *, uint8_t, uint8_t, uint8_t, uint8_t *, uint8_t *, uint32_t *, void *);
    status_t libspdm_start_session(
        void *, bool, const void *, uint16_t, uint8_t, uint8_t, uint8_t, uint32_t *, uint8_t *, void *);
    status_t libspdm_stop_session(void *, uint32_t, uint8_t);
    status_t libspdm_vendor_send_request_receive_response(
        void *, const uint32_t *, uint16_t, uint8_t, const void *, uint16_t, const void *,
        uint16_t *, uint8_t *, void *, uint16_t *, void *);
"""
SUCCESS: Final = 0
ERROR_PEER: Final = 0x8001000A
"""The device answered ERROR."""
_SEND_FAIL: Final = 0x80040000
_RECEIVE_FAIL: Final = 0x80040001
_HEADER_BYTES: Final = 16
_TAIL_BYTES: Final = 19
_ANSWER_TIMEOUT_S: Final = 60.0
"""Of one exchange: a busy machine takes longer than a mailbox may, and that is measured elsewhere."""


SETTINGS: Final = {
    "SPDM_VERSION": ("uint16_t", 0x1200),
    "SECURED_MESSAGE_VERSION": ("uint16_t", 0x1100),
    "CAPABILITY_FLAGS": ("uint32_t", Capability.ENCRYPT | Capability.MAC | Capability.KEY_EX),
    "CAPABILITY_CT_EXPONENT": ("uint8_t", 20),
    "MEASUREMENT_SPEC": ("uint8_t", 1),
    "MEASUREMENT_HASH_ALGO": ("uint32_t", MeasurementHash.SHA384),
    "BASE_ASYM_ALGO": ("uint32_t", BaseAsym.ECDSA_P384),
    "BASE_HASH_ALGO": ("uint32_t", BaseHash.SHA384),
    "DHE_NAME_GROUP": ("uint16_t", Dhe.SECP384R1),
    "AEAD_CIPHER_SUITE": ("uint16_t", Aead.AES_256_GCM),
    "REQ_BASE_ASYM_ALG": ("uint16_t", 0),
    "KEY_SCHEDULE": ("uint16_t", KeySchedule.SPDM),
    "OTHER_PARAMS_SUPPORT": ("uint8_t", OpaqueFormat.FORMAT_1),
}
"""What a requester is and offers, by libspdm's names; no more than it needs, unless told otherwise."""


class Exchange(Protocol):
    """What carries data objects; a `Mailbox` is one."""

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = ...) -> bytes:
        """Send an object and wait for its answer."""


class LibspdmError(Exception):
    """A function of libspdm failed; `status` is what it returned."""

    def __init__(self, function: str, status: int) -> None:
        super().__init__(f"{function}: status {status:#010x}")
        self.status = status


class LibspdmRequester:
    """One requester and its connection."""

    def __init__(
        self,
        mailbox: Exchange,
        *,
        root: bytes | None = None,
        transfer_bytes: int = MAX_MESSAGE_BYTES,
        library: Path | None = None,
        **settings: int,
    ) -> None:
        """`root`: a certificate in DER to trust; `transfer_bytes`: DataTransferSize; others as `SETTINGS` has them."""
        self._ffi = ffi = cffi.FFI()
        ffi.cdef(_DECLARATIONS)
        self._library: Any = ffi.dlopen(str(library or libspdm.provide()))
        self._mailbox = mailbox
        self._answer = b""
        self.error: Exception | None = None
        """What the mailbox raised last."""
        self.session: int | None = None
        self._context = ffi.new("uint64_t[]", self._library.libspdm_get_context_size() // 8 + 1)
        self._kept: list[Any] = []
        self._call("init_context")
        chosen = {name: (kind, settings.pop(name, value)) for name, (kind, value) in SETTINGS.items()}
        assert not settings, f"unknown settings: {settings}"
        chunks = chosen["CAPABILITY_FLAGS"][1] & Capability.CHUNK
        self._register(transfer_bytes, MAX_MESSAGE_BYTES if chunks else transfer_bytes)
        self._configure(root, chosen)
        size = self._library.libspdm_get_sizeof_required_scratch_buffer(self._context)
        scratch = self._keep(ffi.new("uint64_t[]", size // 8 + 1))
        self._library.libspdm_set_scratch_buffer(self._context, scratch, size)
        assert self._library.libspdm_check_context(self._context)

    def connect(self) -> None:
        """GET_VERSION, GET_CAPABILITIES, NEGOTIATE_ALGORITHMS."""
        self._call("init_connection", False)

    def digests(self) -> bytes:
        """GET_DIGESTS; the digest of slot 0."""
        mask, digests = self._ffi.new("uint8_t *"), self._ffi.new("uint8_t[512]")
        self._call("get_digest", self._session(), mask, digests)
        assert mask[0] == 1
        return bytes(digests[0 : self._hash_bytes()])

    def certificate(self) -> bytes:
        """GET_CERTIFICATE until the chain is whole, and libspdm's checks of it."""
        size, chain = self._ffi.new("size_t *", 4096), self._ffi.new("uint8_t[4096]")
        self._call("get_certificate", self._session(), 0, size, chain)
        return bytes(chain[0 : size[0]])

    def challenge(self, summary: int = SummaryType.ALL) -> bytes:
        """CHALLENGE; the summary of measurements."""
        digest = self._ffi.new("uint8_t[64]")
        self._call("challenge", self._ffi.NULL, 0, summary, digest, self._ffi.new("uint8_t *"))
        return bytes(digest[0 : self._hash_bytes()])

    def measurements(
        self, operation: int = MeasurementOperation.ALL, *, raw: bool = False, signed: bool = True
    ) -> tuple[int, bytes]:
        """GET_MEASUREMENTS; number of blocks, and the record. A signature is over those before it without one, too."""
        attributes = MeasurementAttributes.SIGNATURE if signed else MeasurementAttributes(0)
        attributes |= MeasurementAttributes.RAW if raw else 0
        count, changed = self._ffi.new("uint8_t *"), self._ffi.new("uint8_t *", 0xFF)
        size, record = self._ffi.new("uint32_t *", 4096), self._ffi.new("uint8_t[4096]")
        self._call("get_measurement", self._session(), attributes, operation, 0, changed, count, size, record)
        assert changed[0] == 0
        return count[0], bytes(record[0 : size[0]])

    def start_session(self, summary: int = SummaryType.ALL) -> bytes:
        """KEY_EXCHANGE and FINISH; the summary of measurements."""
        session, heartbeat, digest = (
            self._ffi.new("uint32_t *"),
            self._ffi.new("uint8_t *"),
            self._ffi.new("uint8_t[64]"),
        )
        self._call("start_session", False, self._ffi.NULL, 0, summary, 0, 0, session, heartbeat, digest)
        self.session = session[0]
        return bytes(digest[0 : self._hash_bytes()])

    def end_session(self) -> None:
        """END_SESSION."""
        assert self.session is not None
        self._call("stop_session", self.session, 0)
        self.session = None

    def vendor_defined(self, payload: bytes) -> bytes:
        """A message to one of PCI-SIG's protocols, whose number is the first byte of payload and answer."""
        ffi = self._ffi
        standard, vendor_bytes = ffi.new("uint16_t *"), ffi.new("uint8_t *", 2)
        size, answer = ffi.new("uint16_t *", 4000), ffi.new("uint8_t[4000]")
        vendor = ffi.new("uint8_t[2]")
        self._call(
            "vendor_send_request_receive_response",
            self._session(), 3, 2, bytes([1, 0]), len(payload), payload, standard, vendor_bytes, vendor, size, answer,
        )  # fmt: skip
        assert (standard[0], bytes(vendor[0 : vendor_bytes[0]])) == (3, b"\x01\0")
        return bytes(answer[0 : size[0]])

    def close(self) -> None:
        """Wipe the context."""
        self._library.libspdm_deinit_context(self._context)

    def chosen(self, name: str) -> int:
        """What the device has chosen of a setting."""
        ffi, kind = self._ffi, SETTINGS[name][0]
        value, size = ffi.new(f"{kind} *"), ffi.new("size_t *", ffi.sizeof(kind))
        where = ffi.new("data_parameter_t *", {"location": self._library.CONNECTION})
        self._call("get_data", getattr(self._library, name), where, value, size)
        return int(value[0])

    def _hash_bytes(self) -> int:
        return hashlib.new(HASHLIB_NAMES[BaseHash(self.chosen("BASE_HASH_ALGO"))]).digest_size

    def _session(self) -> Any:
        return self._ffi.NULL if self.session is None else self._ffi.new("uint32_t *", self.session)

    def _call(self, name: str, *arguments: Any) -> None:
        self.error = None
        status = getattr(self._library, f"libspdm_{name}")(self._context, *arguments)
        if status != SUCCESS:
            raise LibspdmError(name, status) from self.error

    def _keep(self, thing: Any) -> Any:
        """What libspdm goes on using."""
        self._kept.append(thing)
        return thing

    def _callback(self, kind: str, function: Callable[..., Any], error: int | None = None) -> Any:
        return self._keep(self._ffi.callback(kind, function, error=error))

    def _register(self, transfer_bytes: int, message_bytes: int) -> None:
        """Functions and buffers: libspdm announces what of these lies between the transport's header and tail."""
        ffi, library = self._ffi, self._library
        buffer_bytes = transfer_bytes + _HEADER_BYTES + _TAIL_BYTES
        sending, receiving = (self._keep(ffi.new(f"uint8_t[{buffer_bytes}]")) for _ in range(2))

        def lend(buffer: Any) -> Callable[[Any, Any], int]:
            def acquire(_context: Any, where: Any) -> int:
                where[0] = buffer
                return SUCCESS

            return acquire

        release = self._callback("release_t", lambda _context, _buffer: None)
        library.libspdm_register_device_io_func(
            self._context,
            self._callback("send_t", self._send, _SEND_FAIL),
            self._callback("receive_t", self._receive, _RECEIVE_FAIL),
        )
        library.libspdm_register_device_buffer_func(
            self._context, buffer_bytes, buffer_bytes,
            self._callback("acquire_t", lend(sending)), release,
            self._callback("acquire_t", lend(receiving)), release,
        )  # fmt: skip
        library.libspdm_register_transport_layer_func(
            self._context, message_bytes, _HEADER_BYTES, _TAIL_BYTES,
            ffi.addressof(library, "libspdm_transport_pci_doe_encode_message"),
            ffi.addressof(library, "libspdm_transport_pci_doe_decode_message"),
        )  # fmt: skip

    def _configure(self, root: bytes | None, settings: Mapping[str, tuple[str, int]]) -> None:
        for name, (kind, value) in settings.items():
            self._set(name, self._ffi.new(f"{kind} *", value), self._ffi.sizeof(kind))
        if root is not None:
            self._set("PEER_PUBLIC_ROOT_CERT", self._keep(self._ffi.new("uint8_t[]", root)), len(root))

    def _set(self, name: str, data: Any, size: int) -> None:
        parameter = self._ffi.new("data_parameter_t *")
        self._call("set_data", getattr(self._library, name), parameter, data, size)

    def _send(self, _context: Any, size: int, message: Any, _timeout: int) -> int:
        asked = DataObject.decode(bytes(self._ffi.buffer(message, size)))
        try:
            answer = self._mailbox.exchange(asked.vendor, asked.type, asked.payload, _ANSWER_TIMEOUT_S)
        except Exception as error:
            self.error = error
            return _SEND_FAIL
        self._answer = DataObject(asked.vendor, asked.type, answer).encode()
        return SUCCESS

    def _receive(self, _context: Any, size: Any, message: Any, _timeout: int) -> int:
        if len(self._answer) > size[0]:
            return _RECEIVE_FAIL
        self._ffi.memmove(message[0], self._answer, len(self._answer))
        size[0] = len(self._answer)
        return SUCCESS
