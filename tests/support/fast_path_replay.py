# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Carries out the recorded GCM and XTS steps of crypto-conversations.jsonl on an AES queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ihsm.driver.aes_commands import DATA_UNIT_CODE
from ihsm_device.hsm.keystore import BulkTable, KeyStore
from support.aes_rig import AesRig, Completion, gcm_job, read_blocks, xts_job

KeyNumber = Callable[[str, int], int]
"""Name of a key field of the step and recorded number → number on this device (`key_id` = `bulk_key_id`)."""


class FastPathReplay:
    """One AES queue over the keys of a function."""

    def __init__(self, store: KeyStore, table: BulkTable) -> None:
        self.rig = AesRig(store, table=table)

    def run(self, record: dict[str, Any], key_number: KeyNumber) -> None:
        """Submit what the step describes and compare; raises `AssertionError`."""
        inputs, profile = record["in"], record.get("profile", {})
        if "not expressible" in profile.get("note", ""):
            assert inputs["unit"] not in DATA_UNIT_CODE
            return
        completion, text = self._gcm(inputs, key_number) if record["op"] == "gcm" else self._xts(inputs, key_number)
        status = profile.get("sts", 0), profile.get("err", 0)
        assert completion.status == status, f"sts/err {completion.status}, expected {status}"
        results = record.get("out", {}) | {"text": profile.get("text", record.get("out", {}).get("text"))}
        ours = {"text": text.hex(), "tag": completion.tag.hex(), "iv": completion.iv.hex()}
        for name in record.get("checked", ("text",) if "text" in profile else ()):
            assert ours[name] == results[name], f"{name}: {ours[name]}, expected {results[name]}"
        if "fips" in results:
            assert completion.fips_approved == results["fips"], "fips_approved"

    def _gcm(self, inputs: dict[str, Any], key_number: KeyNumber) -> tuple[Completion, bytes]:
        job = gcm_job(
            self.rig.memory, key_number("key", inputs["key"]), bytes.fromhex(inputs["iv"]),
            bytes.fromhex(inputs["text"]), bytes.fromhex(inputs.get("aad", "")), decrypt=not inputs["enc"],
            tag=bytes.fromhex(inputs.get("tag", bytes(16).hex())),
        )  # fmt: skip
        job.sqe["session_id"], job.sqe["short_app_id"] = inputs["sess"], inputs["app"]
        completion = self.rig.run(job.sqe.tobytes())
        return completion, job.output(self.rig.memory)

    def _xts(self, inputs: dict[str, Any], key_number: KeyNumber) -> tuple[Completion, bytes]:
        data = bytes.fromhex(inputs["text"])
        dul = DATA_UNIT_CODE[0 if inputs["unit"] == len(data) else inputs["unit"]]
        keys = key_number("key1", inputs["key1"]), key_number("key2", inputs["key2"])
        sqe, blocks = xts_job(
            self.rig.memory, keys, bytes.fromhex(inputs["tweak"]), data, decrypt=not inputs["enc"], dul=dul
        )  # fmt: skip
        sqe["session_id"], sqe["short_app_id"] = inputs["sess"], inputs["app"]
        completion = self.rig.run(sqe.tobytes())
        return completion, read_blocks(self.rig.memory, blocks)

    def close(self) -> None:
        """Disable the queue; the keys stay."""
        self.rig.close()
