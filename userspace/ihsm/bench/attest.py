# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What it takes to ask a device who it is, over its socket: `ihsm bench attest`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ihsm.attest import Connection, Session, attest, new_nonce
from ihsm.bench.device import BenchDevice
from ihsm.bench.results import Result, throughput
from ihsm.bench.sample import timed
from ihsm.bench.setups import THROUGHPUT_DEVICE, Place
from ihsm.bus import Mailbox, VfioUserFunction
from ihsm_abi.pci_config import COMMAND_OFFSET

SECONDS: Final = 1.0

Advance = Callable[[str], None]


def attestation(place: Place, advance: Advance) -> list[Result]:
    """A write to configuration space, of which an exchange has many; a challenge; a session; all of it once."""
    del place  # it takes a device of its own
    results: list[Result] = []
    device = BenchDevice(THROUGHPUT_DEVICE)
    try:
        with VfioUserFunction(device.process.socket_path) as function:
            mailbox = Mailbox(function)
            connection, nonce = Connection(mailbox), new_nonce()
            connection.negotiate()
            connection.read_chain()
            command = function.read_config(COMMAND_OFFSET, 2)
            measured: dict[str, Callable[[], object]] = {
                "config-write": lambda: function.write_config(COMMAND_OFFSET, command),
                "attest-challenge": lambda: connection.challenge(nonce),
                "attest-session": lambda: Session.open(connection).end(),
                "attest-whole": lambda: attest(mailbox),
            }
            for name, operation in measured.items():
                sample = timed(operation, SECONDS, device=device.load)
                results.append(throughput(name, {"device": [sample]}, {}, outstanding=1))
                advance(name)
    finally:
        device.close()
    return results
