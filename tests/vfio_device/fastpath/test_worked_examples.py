# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The interface's worked examples, byte for byte (spec 02 H.4 to H.10; NIST XTS vector of 05 §17.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ihsm_abi.aes_queue import GCM_SQE
from ihsm_device.hsm.keystore import BulkType
from support.aes_rig import AesRig, descriptor, xts_job
from support.guest_memory import GuestMemory

DATA = json.loads((Path(__file__).parents[2] / "data" / "fast-path-examples.json").read_text())
AT = DATA["addresses"]
COUNTERS = slice(56, 60)
"""sqhd and sqid: they depend on what the queue did before."""
IV = slice(92, 104)
AAD_BYTES = 32


def lay_out(rig: AesRig, example: dict[str, Any]) -> tuple[dict[str, GuestMemory], bytes]:
    """Memory at the example's addresses, source and segments in it; and the source."""
    memory = {name: GuestMemory(rig.host, 0x1000, base=address & ~0xFFF) for name, address in AT.items()}
    source = bytes.fromhex(example["source"])
    memory["source"].write(AT["source"], source)
    for side in ("source", "destination"):
        memory[f"{side}_segment"].write(AT[f"{side}_segment"], descriptor(AT[side], len(source)))
    memory["tail"].write(AT["tail"], bytes.fromhex(example.get("tail", "")))
    return memory, source


@pytest.mark.parametrize("example", DATA["examples"], ids=lambda example: example["name"])
def test_example(example: dict[str, Any], make_rig: Callable[..., AesRig]) -> None:
    rig = make_rig(fips=True)
    for number, key in DATA["keys"].items():
        rig.add_key(int(number), bytes.fromhex(key["key"]), BulkType[key["type"]])
    memory, source = lay_out(rig, example)
    sqe, cqe = bytearray.fromhex(example["sqe"]), bytearray.fromhex(example["cqe"])
    # The default profile keeps the caller's IV; the examples show the device's.
    if "device_iv" in example:
        sqe[IV] = bytes.fromhex(example["device_iv"])

    completion = rig.run(bytes(sqe))

    expected = bytes(cqe)
    assert completion.raw[: COUNTERS.start].hex() == expected[: COUNTERS.start].hex()
    assert completion.raw[COUNTERS.stop :].hex() == expected[COUNTERS.stop :].hex()
    text_at = AAD_BYTES if np.frombuffer(bytes(sqe), GCM_SQE)[0]["aligned_aad_len"] else 0
    written = memory["destination"].read(AT["destination"], len(source))
    if "sha256" in example:
        assert hashlib.sha256(written).hexdigest() == example["sha256"]
        assert written.hex().startswith(example["starts"])
        assert written.hex().endswith(example["ends"])
    else:
        assert written[text_at:].hex() == example["destination"]
    if "tail" in example:
        assert memory["tail"].read(AT["tail"], len(example["tail"]) // 2).hex() == example["tail_result"]


@pytest.mark.parametrize(
    ("dul", "digest"),
    [
        (1, "238c7dedcfd3d715bcb03820573cb1cc628aaff2e34bce37be28ea037d39c42a"),
        (0, "e0d2e2e7ee288681567376164e9ff0d0e4046496546aab1b7d1c5e5fb855056f"),
    ],
    ids=["two data units", "one data unit"],
)
def test_xts_data_units(make_rig: Callable[..., AesRig], dul: int, digest: str) -> None:
    rig = make_rig()
    rig.add_key(1, bytes(range(32)), BulkType.XTS)
    rig.add_key(2, bytes(range(32, 64)), BulkType.XTS)
    sqe, dst = xts_job(rig.memory, (1, 2), (5).to_bytes(16, "little"), bytes(1024), dul=dul)
    completion = rig.run(sqe.tobytes())
    assert (completion.status, completion.len) == ((0, 0), 1024)
    assert hashlib.sha256(rig.memory.read(*dst[0])).hexdigest() == digest


def test_xts_tweak_of_full_width(make_rig: Callable[..., AesRig]) -> None:
    rig = make_rig()
    rig.add_key(1, bytes.fromhex("de69e2a2e7ca0a0bbbc3e379d389b84f627bc62ab277cc7b0c04d5959842525a"), BulkType.XTS)
    rig.add_key(2, bytes.fromhex("5d36109287fb066cea844a4487e86388cbe11e39fcde7c15b2f4b2951bdedc1a"), BulkType.XTS)
    plaintext = bytes.fromhex("584a98ebe2b9c24686f400b477d804c3dc1deaf4ada69f4dbc40b454f1b8d5a0")
    sqe, dst = xts_job(rig.memory, (1, 2), bytes.fromhex("773d903f1ea98b7ce5900ffd9ef866eb"), plaintext)
    assert rig.run(sqe.tobytes()).status == (0, 0)
    assert rig.memory.read(*dst[0]).hex() == "8d28f585e0a8803b4183abe7c3b82fc3ac66a1e8fcbf0211301786ed456b3e0a"
