# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm status`: partition, sessions, vault, self-tests, registers and counters of a function.

A served function says all of it through its control socket, and its guest is not disturbed. Any other device tells
what its operations tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ihsm.cli.common import (
    device_option,
    flatten,
    hits_left,
    json_option,
    poll_option,
    print_json,
    print_table,
    wait_option,
)
from ihsm.control import ControlClient
from ihsm.errors import DeviceNotFoundError
from ihsm.uri import Scheme, choose_device, open_at

if TYPE_CHECKING:
    from ihsm import ddi


@click.command(
    help="""Print the state of a function: partition, sessions, vault use, self-tests, registers, queues, counters.

    Asked at its control socket, a served function and its guest are not disturbed. A device without one is brought
    up, as for `ihsm info`, and tells less; --wait is for those alone.
    """,
)
@device_option
@wait_option
@poll_option
@json_option
def status(device: str, wait_s: float, poll: bool, as_json: bool) -> None:
    """Run `ihsm status`."""
    uri = choose_device(device, busy=True)
    if uri is None:
        raise DeviceNotFoundError("no device found")
    if uri.scheme == Scheme.VFIO_USER:
        with ControlClient(uri.address) as client:
            record = client.status()
    else:
        from ihsm import ddi
        from ihsm.driver import DriverOptions

        with open_at(uri, DriverOptions(interrupts=not poll), wait_s=wait_s) as opened:
            record = {"uri": str(uri), "module": describe_partition(ddi.Partition(opened))}
    if as_json:
        print_json(record)
    else:
        print_table(flatten(record | {"faults": _fault_lines(record.get("faults", []))}))


def _fault_lines(faults: list[dict[str, Any]]) -> dict[str, str]:
    """What becomes of each fault, by its number."""
    return {
        str(entry["id"]): f"{entry['text']}; hits: {entry['hits']}, left: {hits_left(entry['left'])}"
        for entry in faults
    }


def describe_partition(partition: ddi.Partition) -> dict[str, Any]:
    """What a partition's own operations tell without a session, under the names of the control socket."""
    info = partition.info()
    chain = partition.certificate_chain()
    return {
        "kind": info.kind.name,
        "state": "ready" if partition.is_provisioned() else "not provisioned",
        "vault": {"tables": info.tables},
        "fips_approved": info.fips_approved,
        "sealed_bk3": partition.sealed_bk3() is not None,
        "certificates": len(chain.der),
        "thumbprint": chain.thumbprint.hex(),
    }
