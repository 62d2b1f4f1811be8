# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Make the seeds of the corpora from what the tests have: `python fuzz/seeds.py`.

What a fuzzer has found in addition lies beside them, under names of its own.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from ihsm.trace import pcapng
from ihsm.trace.files import read_recording
from ihsm_abi.ddi import KeyType
from ihsm_device.hsm.wire import TYPES

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
CORPUS = Path(__file__).parent / "corpus"
Seeds = Iterator[tuple[str, bytes]]
MAX_LINES = 40


def _lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def keys() -> Seeds:
    """DER of keys, behind the number of what they are imported as; a point."""
    for name, value in _lines("crypto-conversations.jsonl")[0]["keys"].items():  # type: ignore[attr-defined]
        payload = bytes.fromhex(value)
        if payload[:1] == b"\x30":
            for kind in range(3):
                yield f"{name}-{kind}", bytes([kind]) + payload


def masked() -> Seeds:
    """A key of each type as it stands in a blob (spec 05 §16.2), with the metadata that say so."""
    payloads = _lines("crypto-conversations.jsonl")[0]["keys"]
    assert isinstance(payloads, dict)
    private = {name: load_der_private_key(bytes.fromhex(payloads[name]), None) for name in ("ecc-p256", "rsa2048")}
    ecc, rsa = private["ecc-p256"], private["rsa2048"]
    assert isinstance(ecc, EllipticCurvePrivateKey)
    assert isinstance(rsa, RSAPrivateKey)
    point, numbers = ecc.private_numbers(), rsa.private_numbers()
    n, e, p, q = numbers.public_numbers.n, numbers.public_numbers.e, numbers.p, numbers.q
    forms = {
        KeyType.Ecc256Private: ((point.private_value, 32), (point.public_numbers.x, 32), (point.public_numbers.y, 32)),
        KeyType.Rsa2kPrivate: ((numbers.d, 256), (n, 256), (e, 4)),
        KeyType.Rsa2kPrivateCrt: ((p, 128), (q, 128), (numbers.dmp1, 128), (numbers.dmq1, 128), (n, 256),
                                  (pow(q, -1, p) * q, 256), (pow(p, -1, q) * p, 256), (e, 4)),
    }  # fmt: skip
    for index, key_type in enumerate(sorted(TYPES)):
        info = TYPES[key_type]
        if key_type in forms:
            plaintext = b"".join(value.to_bytes(size, "little") for value, size in forms[key_type])
        elif info.secret_bytes or info.lengths:
            plaintext = bytes(range(info.secret_bytes or info.lengths[0]))  # type: ignore[index]
        else:
            continue
        # the key of the partition; the choices of metadata; type; flags; length; no label; the first of the lengths
        yield key_type.name, bytes([0, 0, index, 0, 0, 0, 0, 0, 0]) + plaintext


def decoders() -> Seeds:
    """Requests, whole."""
    seen = set()
    for step in _lines("ddi-malformed.jsonl"):
        request = bytes.fromhex(str(step["request"]))
        if len(request) < 200 and request[:24] not in seen and len(seen) < MAX_LINES:
            seen.add(request[:24])
            yield f"request-{len(seen)}", b"\0" + request


def express() -> Seeds:
    """Requests of the lane, in the session and with the keys that its harness has."""
    keys = {"AesEncryptDecrypt": 0x10, "Hmac": 0x11, "EccSign": 0x12, "RsaModExp": 0x14}
    for step in _lines("crypto-conversations.jsonl"):
        if (name := str(step.get("op"))) in keys:
            request = bytearray.fromhex(str(step["req"]))
            session = request.index(b"\x18\x03\x19") + 3
            request[session : session + 2] = (3).to_bytes(2, "big")
            key = request.index(b"\x18\x01\x19", session) + 3
            request[key : key + 2] = keys.pop(name).to_bytes(2, "big")
            yield name, bytes([6, 0, 0, 0, 3, 0]) + bytes(request)


def traces() -> Seeds:
    """The beginning of a driver's life, in both forms and as records."""
    lines = (DATA / "linux-driver-3.2.0-probe-remove-probe-remove.jsonl").read_bytes().splitlines(keepends=True)
    text = b"".join(lines[:MAX_LINES])
    records = [record for _, record in read_recording(io.BufferedReader(io.BytesIO(text))).records]  # type: ignore[arg-type]
    yield "driver.jsonl", text
    writable = [record for record in records if type(record).__name__ != "Fetched"]
    out = io.BytesIO()
    pcapng.write_file(out, writable)
    yield "driver.pcapng", out.getvalue()
    encoded = [record.encode() for record in writable]
    yield "driver.records", b"\0" + b"".join(one + bytes(-len(one) % 8) for one in encoded)


def replay() -> Seeds:
    """The same."""
    yield from traces()


def control() -> Seeds:
    """A line of each command, and some that are wrong."""
    for number, line in enumerate(
        [
            {"id": 1, "command": "fault.add", "arguments": {"action": "drop-completion", "queue": 1, "count": 2}},
            {"id": 2, "command": "fault.list", "arguments": {}},
            {"id": None, "command": "fault.clear", "arguments": {"id": 1}},
            {"id": [1], "command": "fault.wait", "arguments": {"id": 1, "hits": 1, "timeout": 0}},
        ]
    ):
        yield f"line-{number}", json.dumps(line).encode()
    yield "chosen", b"\0" + bytes(range(64))


def state_files() -> Seeds:
    """A record of each kind."""
    device = {"format": 2, "record": "DeviceRecord", "serial": 7, "certificates": ["3000", "3000"]}
    part = {"format": 2, "record": "PartitionRecord", "partition_id": "00" * 16, "leaf": None, "bk_boot": None,
            "sealed_bk3": None}  # fmt: skip
    for record in (device, part):
        yield f"{record['record']}", b"\0" + json.dumps(record).encode()
        yield f"{record['record']}-1", json.dumps(record | {"format": 1}).encode()


def spdm() -> Seeds:
    """Each request where it is answered; a whole conversation."""

    def step(how: int, message: bytes) -> bytes:
        return bytes([how]) + len(message).to_bytes(2, "little") + message

    outside = {
        "version": (0, "10840000"),
        "capabilities": (1, "12e10000 0014 0000 c2020000 00100000 00100000"),
        "algorithms": (2, "12e30000 2000 01 02 80000000 02000000" + 12 * "00" + "00 00 0000"),
        "digests": (3, "12810000"),
        "certificate": (3, "12820000 0000 0004"),
        "challenge": (3, "12830001" + 32 * "5a"),
        "measurements": (3, "12e003ff" + 32 * "5a" + "00"),
        "vendor": (3, "12fe0000 0300 02 0100 0400 00616263"),
    }
    for name, (stage, text) in outside.items():
        yield name, bytes([stage]) + step(0, bytes.fromhex(text))
    inside = {"digests": "12810000", "measurements": "12e0000a", "end": "12ec0000"}
    yield "finish", b"\4" + step(1, bytes.fromhex("12e50000") + bytes(48))
    yield "session", b"\5" + b"".join(step(1, bytes.fromhex(text)) for text in inside.values())
    yield "record", b"\5" + step(2, bytes(40))

    def vendor_defined(payload: bytes) -> bytes:
        head = bytes.fromhex("12fe0000 0300 02 0100")
        return step(1, head + len(payload).to_bytes(2, "little") + payload)

    places = [sub << 4 | way << 1 for way in (0, 1) for sub in (0, 1, 2)]
    iv = bytes.fromhex("0000000001000000")
    keys = b"".join(vendor_defined(bytes([0, 2, 0, 0, 0, 0, place, 0]) + bytes(32) + iv) for place in places)
    keys += b"".join(vendor_defined(bytes([0, 4, 0, 0, 0, 0, place, 0])) for place in places)
    yield "ide_km", b"\5" + vendor_defined(bytes(4)) + keys + vendor_defined(bytes([0, 5, 0, 0, 0, 0, 0, 0]))

    def tdisp(code: int, body: bytes = b"") -> bytes:
        return vendor_defined(bytes([1, 0x10, code]) + bytes(14) + body)

    asked = {0x81: b"", 0x82: bytes(4), 0x83: bytes(20), 0x84: bytes.fromhex("0000ff00"), 0x85: b"", 0x86: bytes(32)}
    talk = b"".join(tdisp(code, body) for code, body in asked.items()) + tdisp(0x87) + tdisp(0x88)
    yield "tdisp", b"\5" + keys + talk


def messages() -> Seeds:
    """Rows of messages: what a client begins with; a region read and written, memory given and taken."""

    def message(command: int, payload: bytes, how: int = 0) -> bytes:
        return bytes([how, command]) + len(payload).to_bytes(2, "little") + payload

    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(4, "little") for value in values)

    memory = words(32, 3, 0, 0, 0x10000, 0, 0x10000, 0)
    access = words(0, 0, 7, 4)
    yield "information", b"\0" + message(4, words(16, 0, 0, 0)) + message(5, words(32, 0, 7, 0, 0, 0, 0, 0))
    yield "memory", b"\0" + message(2, memory, 1) + message(3, words(24, 0, 0x10000, 0, 0x10000, 0))
    yield "configuration", b"\0" + message(9, access) + message(10, access + b"abcd")
    yield "interrupts", b"\0" + message(8, words(20, 0x24, 2, 0, 1), 0x11) + message(13, b"")
    yield "greeting", b"\1" + message(1, bytes([0, 0, 1, 0]) + b'{"capabilities":{"max_msg_fds":8}}\0')


def fast_path() -> Seeds:
    """Entries of both ciphers with a data block each."""
    for name, cipher in (("gcm", 0), ("xts", 1)):
        for decrypt in (0, 1):
            entry = bytearray(128)
            entry[4:6] = (cipher << 8 | decrypt).to_bytes(2, "little")
            entry[24:28] = entry[44:48] = (64).to_bytes(4, "little")
            entry[36:40] = entry[56:60] = (64).to_bytes(4, "little")
            entry[28:36], entry[48:56] = (0x100).to_bytes(8, "little"), (0x1000).to_bytes(8, "little")
            entry[68] = 0 if cipher else 3
            entry[72] = 1 if cipher else 0
            yield f"{name}-{decrypt}", b"\x1f" + bytes(entry) + b"\x0c\0\1\x40\0" + bytes(range(64))

    # 320 KiB in blocks of a list, so that there is a checkpoint, at which the first stretch of memory is another.
    blocks, size, last_segment = 40, 8192, 3 << 4

    def descriptor(address: int, length: int, kind: int = 0) -> bytes:
        return address.to_bytes(8, "little") + length.to_bytes(4, "little") + bytes([0, 0, 0, kind])

    for name, cipher in (("gcm", 0), ("xts", 1)):
        entry = bytearray(128)
        entry[4:6] = (cipher << 8 | 1 << 2).to_bytes(2, "little")
        entry[24:28] = entry[44:48] = (blocks * size).to_bytes(4, "little")
        entry[28:44] = descriptor(0xD000, 16 * blocks, last_segment)
        entry[48:64] = descriptor(0xE000, 16 * blocks, last_segment)
        entry[68], entry[72] = (0, 1) if cipher else (3, 0)
        lists = (descriptor(at, size) * blocks for at in (0x100, 0x3100))
        writes = b"".join(
            place.to_bytes(2, "little") + len(one).to_bytes(2, "little") + one
            for place, one in zip((0xD000, 0xE000), lists, strict=True)
        )
        yield f"{name}-list", b"\x0f" + bytes(entry) + b"\x0c" + writes


def engine() -> Seeds:
    """The admin queue, and a pair of AES queues with an entry that is rung."""
    admin = bytes([4]) + bytes([0, 0, 0, 0, 0, 0x10, 0, 0, 14, 14])
    queues = bytes([5, 3, 0, 0x20, 0, 0, 14, 0, 1]) + bytes([6, 3, 0, 0x30, 0, 0, 14, 0, 3])
    ring = bytes([2, 3, 0, 1, 0, 11, 9, 0])
    hsm = bytearray(64)
    hsm[0:2] = (0x0002).to_bytes(2, "little")
    hsm[4:8] = hsm[24:28] = (200).to_bytes(4, "little")
    hsm[8:16], hsm[28:36] = (0xD000).to_bytes(8, "little"), (0xE000).to_bytes(8, "little")
    request = bytes([0, 0, 0xD0, 0, 0, 8]) + bytes.fromhex("a200a101000001ff")[:8]
    yield "hsm-command", b"\x1b" + request + bytes([20, 1, 0x8F, 64]) + hsm + bytes([9, 1, 10, 64, 0, 0, 0, 0, 19])
    aes = next(iter(fast_path()))[1][1:129]
    yield "aes-command", b"\x1b" + bytes([20, 3, 0x9F, 128]) + aes + bytes([11, 18, 19])
    admin_entry = bytes([6, 0, 1, 0]) + bytes(60)
    fault = bytes([16, 12, 1, 0, 0, 0, 0, 0])
    yield "admin-fault", b"\x1b" + fault + bytes([20, 0, 0x80, 64]) + admin_entry + bytes([9, 0, 10, 1, 0, 0, 0, 0, 18])
    yield "queues", b"\3" + admin + bytes([2, 0, 0, 1, 0, 9, 0, 10, 0, 0, 0, 0, 0]) + queues + ring


def main() -> None:
    """Write every seed."""
    for make in (
        keys, masked, decoders, express, traces, replay, control, state_files, spdm, messages, fast_path, engine,
    ):  # fmt: skip
        folder = CORPUS / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in make():
            (folder / name).write_bytes(content)
    dispatcher = CORPUS / "dispatcher"
    dispatcher.mkdir(exist_ok=True)
    for number in range(8):
        (dispatcher / f"row-{number}").write_bytes(bytes((number * 37 + i * 11) % 251 for i in range(160)))


if __name__ == "__main__":
    sys.exit(main())
