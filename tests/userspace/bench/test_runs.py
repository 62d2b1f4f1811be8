# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's loops on a real device: they do what they count, and leave the driver's queues as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm.bench import all_targets, peers
from ihsm.bench.all_targets import CommandFailedError, two_cores_doubt
from ihsm.bench.device import BenchDevice, bulk_keys, provisioned
from ihsm.bench.quick import QuickRun
from ihsm.bench.results import Result
from ihsm.bench.rings import BenchLoopError, primitive
from ihsm.bench.sample import Runner, Series, interleave
from ihsm.bench.setups import der
from ihsm.bench.targets import TARGETS
from ihsm.bench.workloads import DdiWork, Recorder, aes_work
from ihsm.cli import bench as bench_cli
from ihsm.ddi import KeyRequest, Partition, Session
from ihsm.driver import Controller, DriverOptions
from ihsm_abi.ddi import AesKeySize, EccCurve, EccSignResp, HashAlgorithm, KeyUsage, decode_response
from support.waiting import HANG_S

SHORT = 0.02
WAYS = {
    "page": (("--doorbell", "page", "--spin-us", "20"), False),
    "trap": (("--doorbell", "trap"), True),
}


@pytest.fixture(scope="module", params=WAYS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[BenchDevice, Controller, Session]]:
    arguments, interrupts = WAYS[request.param]
    device = BenchDevice(arguments)
    options = DriverOptions(interrupts=interrupts, hsm_queues=1, aes_queues=2, aes_entries=64)
    try:
        with provisioned(device, options) as (controller, session):
            yield device, controller, session
    finally:
        device.close()


@pytest.mark.parametrize("cipher", ["gcm", "xts"])
@pytest.mark.parametrize("size", [64, 4096])
def test_closed_loop(place: tuple[BenchDevice, Controller, Session], cipher: str, size: int) -> None:
    device, controller, session = place
    with aes_work(controller, session, cipher, size, load=device.load, queues=controller.aes_queues) as work:
        for depth, batch in ((1, 1), (48, 16), (63, 1)):
            sample = work.run(SHORT, depth=depth, batch=batch, latencies=True)
            assert sample.operations >= depth
            assert sample.wall_s >= SHORT
            assert sample.device_cpu_s is not None
            assert sample.latencies_ns is not None
            assert len(sample.latencies_ns) == sample.operations
        with pytest.raises(ValueError, match="1 to 63 possible"):
            work.run(SHORT, depth=64, batch=1)


def test_the_driver_goes_on_with_lent_queues(place: tuple[BenchDevice, Controller, Session]) -> None:
    device, controller, session = place
    queue, ids = controller.aes_queues[0], session.fast_path
    with bulk_keys(session, AesKeySize.AesGcmBulk256Unapproved) as keys:
        for _ in range(3):
            with aes_work(controller, session, "gcm", 16, load=device.load) as work:
                work.run(SHORT, depth=5, batch=1)
            sealed = queue.gcm_encrypt(ids, keys[0], b"text", timeout_s=HANG_S)
            opened = queue.gcm_decrypt(ids, keys[0], sealed.ciphertext, sealed.tag, sealed.iv, timeout_s=HANG_S)
            assert opened.data == b"text"


def test_work_is_what_it_says(place: tuple[BenchDevice, Controller, Session]) -> None:
    """Each target holds the encryption of its source: compared with the driver's own call on the same key."""
    device, controller, session = place
    with aes_work(controller, session, "gcm", 64, load=device.load) as work:
        work.run(SHORT, depth=60, batch=20)
        entry = work.tables[0][1]
        stride, aad = work.buffers.stride, work.aad_bytes
        source = work.buffers.source[stride : stride + aad + 64].tobytes()
        sealed = controller.aes_queues[0].gcm_encrypt(
            session.fast_path, int(entry["key_id"]), source[aad:], aad=source[:aad], iv=entry["iv"].tobytes(),
            timeout_s=HANG_S,
        )  # fmt: skip
        assert work.buffers.target[stride + aad : stride + aad + 64].tobytes() == sealed.ciphertext


def test_open_loop_offers_the_rate(place: tuple[BenchDevice, Controller, Session]) -> None:
    device, controller, session = place
    with aes_work(controller, session, "gcm", 16, load=device.load) as work:
        sample = work.ring.open_loop(0.1, rate=2000)
    assert sample.operations == 200
    assert sample.latencies_ns is not None
    assert len(sample.latencies_ns) == 200


def test_ddi_command_again_and_again(place: tuple[BenchDevice, Controller, Session]) -> None:
    device, controller, session = place
    recorder = Recorder(controller)
    through = Session(Partition(recorder), session.session_id, session.short_app_id, b"", b"")
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    through.ecc_sign(key, bytes(32), HashAlgorithm.Sha256)
    assert recorder.session_id is not None
    work = DdiWork(controller, recorder.message, recorder.session_id, queue=controller.hsm_queues[0], load=device.load)
    operations = 0
    while operations < controller.hsm_queues[0].entries:  # until slot 0 has had its turn
        sample = work.run(SHORT, outstanding=8)
        assert sample.operations >= 8
        operations += sample.operations
    header, data = decode_response(work.response(0), EccSignResp)
    assert data is not None, header
    work.release()
    session.delete_key(key)


def test_a_failing_command_is_an_error(place: tuple[BenchDevice, Controller, Session]) -> None:
    device, controller, session = place
    with aes_work(controller, session, "gcm", 16, load=device.load) as work:
        work.tables[0]["key_id"] = 0xFFFF
        work.ring._tables[0]["key_id"] = 0xFFFF
        with pytest.raises(BenchLoopError, match="failed"):
            work.run(SHORT, depth=1, batch=1)
    controller.reset()


@pytest.mark.parametrize("name", ["shared_memory", "socket", "eventfd"])
@pytest.mark.parametrize("seconds", [0, SHORT])
def test_primitives(name: str, seconds: float) -> None:
    sample = primitive(name, seconds)
    assert sample.latencies_ns is not None
    assert sample.operations == len(sample.latencies_ns) > 0


def test_libraries_do_real_work() -> None:
    source = np.arange(4096, dtype=np.uint64).astype(np.uint8)
    target = np.zeros(4096, np.uint8)
    buffers = peers.Buffers(source, target, 4, 1024)
    libraries = [library for library in (peers.aws_lc(), peers.system_openssl()) if library is not None]
    assert len(libraries) == 2
    outputs = []
    for library in libraries:
        target[:] = 0
        assert library.gcm(buffers, 32, 64, SHORT).operations > 0
        outputs.append(target[32:96].tobytes())
        assert library.xts(buffers, 512, SHORT).operations > 0
        assert library.cbc(buffers, 512, SHORT).operations > 0
        assert library.hmac(bytes(64), SHORT).operations > 0
    assert all(output != bytes(64) for output in outputs)
    assert len({library.version for library in libraries}) == 2
    assert AESGCM(bytes(32))


def test_a_run_has_an_operation_however_late_it_begins() -> None:
    """A thread that gets the processor when its time is over: without an operation there is no cost per operation."""
    buffers = peers.Buffers(np.zeros(4096, np.uint8), np.zeros(4096, np.uint8), 4, 1024)
    key = der(ec.generate_private_key(ec.SECP256R1()))
    library, hsm = peers.aws_lc(), peers.soft_hsm()
    samples = [library.gcm(buffers, 32, 64, 0), library.xts(buffers, 512, 0), library.sign(key, bytes(32), 0)]
    samples += [library.cbc(buffers, 64, 0), library.hmac(bytes(64), 0)]
    if hsm is not None:
        samples += [hsm.gcm(buffers, 32, 64, 0), hsm.ecdsa_p256(bytes(32), 0)]
        hsm.close()
    assert all(sample.operations > 0 for sample in samples)


def test_signatures_of_libraries() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        for library in (peers.aws_lc(), peers.system_openssl()):
            assert library is not None
            assert library.sign(der(key), bytes(32), SHORT).operations > 0


def test_soft_hsm() -> None:
    hsm = peers.soft_hsm()
    if hsm is None:
        pytest.skip("SoftHSM2 is not installed")
    source, target = np.zeros(4096, np.uint8), np.zeros(4096, np.uint8)
    try:
        assert hsm.gcm(peers.Buffers(source, target, 4, 1024), 32, 64, SHORT).operations > 0
        assert hsm.ecdsa_p256(bytes(32), SHORT).operations > 0
        assert target[32:96].any()
    finally:
        hsm.close()


OTHER_SUITES = ("api-", "guest-", "kmod-", "trace-")
"""Beginnings of the ids that suites of their own produce."""
NOT_QUICK = {
    "rsa-4096", "hmac-sha256-64", "cbc-1024", "ddi-threads", "ecdsa-p99-beside-rsa", "sign-many-python", "cli-start",
}  # fmt: skip
OWN_TARGETS = {target.id for target in TARGETS if not target.id.startswith(OTHER_SUITES)}


def test_quick_run_gives_the_targets_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one short round each; what they are is for a quiet machine."""
    assert targets_of_a_run(monkeypatch, "--quick") == OWN_TARGETS - NOT_QUICK


def test_the_suite_of_targets_gives_the_rest_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the steps of the quick run, which it begins with and which have been measured above."""
    monkeypatch.setattr(QuickRun, "groups", lambda self: [])
    assert targets_of_a_run(monkeypatch, "targets") == NOT_QUICK


def targets_of_a_run(monkeypatch: pytest.MonkeyPatch, suite: str) -> set[str]:
    """Ids of what is measured, every number of whose targets has been found."""
    monkeypatch.setattr("ihsm.bench.client.SECONDS", SHORT)
    monkeypatch.setattr("ihsm.bench.all_targets.STARTS", 1)
    monkeypatch.setattr(QuickRun, "_interleave", _short_rounds)
    result = CliRunner().invoke(bench_cli.bench, [suite, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.output)
    for record in document["results"]:
        assert record["value"] >= 0
        assert record["unit"] in ("1/s", "us", "%", "s")
    missing = {line["number"] for line in document["targets"] if line["found"] is None}
    assert missing <= ({"softhsm2"} if document["machine"]["peers"]["softhsm2"] is None else set())
    assert document["machine"]["cpus"]
    return {record["id"] for record in document["results"]}


def test_attestation_is_measured_by_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.bench.attest.SECONDS", SHORT)
    result = CliRunner().invoke(bench_cli.bench, ["attest", "--json"])
    assert result.exit_code == 0, result.stderr
    found = {record["id"] for record in json.loads(result.stdout)["results"]}
    assert found == {"config-write", "attest-challenge", "attest-session", "attest-whole"}


def test_two_threads_of_one_core_are_no_two_cores() -> None:
    assert two_cores_doubt([[0, 1]])
    assert not two_cores_doubt([[0], [1]])
    doubtful = Result("ddi-threads", 1.0, "1/s", {"one_thread": 1.9}, doubts=two_cores_doubt([[0, 1]]))
    [target] = [target for target in TARGETS if target.id == "ddi-threads"]
    assert target.judged(doubtful.to_json(), [])["met"] is None


def test_a_command_that_fails_gives_no_start() -> None:
    with pytest.raises(CommandFailedError, match="no-such-command"):
        all_targets._once(["no-such-command"], 0.0)


@pytest.mark.parametrize("seconds", [2, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_soak_loses_and_duplicates_nothing(seconds: int) -> None:
    """A completion lost, doubled or failed makes the exit status 1."""
    result = CliRunner().invoke(bench_cli.bench, ["soak", "--seconds", str(seconds), "--json"])
    assert result.exit_code == 0, result.output
    [record] = json.loads(result.output)["results"]
    assert record["aes_commands"] > 0
    assert record["hsm_commands"] > 0
    assert record["mappings"] > 0


def _short_rounds(self: QuickRun, variants: dict[str, Runner], seconds: float = 0.0) -> Series:
    return interleave(variants, pairs=1, seconds=SHORT)
