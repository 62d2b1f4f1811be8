# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm info`: what a device says of itself, through config space, registers, admin queue and HSM ring.

Behind the node of a kernel's driver, it is what the driver says, and the HSM's own commands.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ihsm import ddi
from ihsm.bus import PciFunction
from ihsm.bus.config_space import capabilities, read_ids, serial_number
from ihsm.cli.common import device_option, flatten, json_option, poll_option, print_json, print_table, wait_option
from ihsm.cli.output_files import OUTPUT_FILE, write_output
from ihsm.driver import Controller, DriverOptions, OpenDevice
from ihsm.uri import open_device
from ihsm_abi.ddi import GetApiRevReq, GetApiRevResp, GetDeviceInfoReq, GetDeviceInfoResp
from ihsm_abi.pci import PAGE_BYTES

if TYPE_CHECKING:
    from ihsm.chardev import NodeDevice


@click.command(
    help="""Bring a device up and print what it is.

    A device that somebody else uses is not disturbed: a socket takes one client at a time, and a PCI function with a
    driver is refused. The driver's node (chardev:PATH) takes any number, and tells less.
    """,
)
@device_option
@wait_option
@json_option
@poll_option
@click.option(
    "--chain", "chain_file", type=OUTPUT_FILE, help="Save the partition's certificates here (PEM, leaf first)."
)
def info(device: str, wait_s: float, as_json: bool, poll: bool, chain_file: Path | None) -> None:
    """Run `ihsm info`."""
    # Little memory: in a guest each page that is mapped for DMA costs a round trip to the host.
    options = DriverOptions(interrupts=not poll, hsm_entries=4, aes_entries=4, buffer_bytes=PAGE_BYTES)
    with open_device(device, options, wait_s=wait_s) as opened:
        record: dict[str, Any] = {"uri": opened.uri}
        if isinstance(opened, Controller):
            record |= {"pci": describe_function(opened.function)} | describe_controller(opened)
        else:
            from ihsm.chardev.device import NodeDevice

            if isinstance(opened, NodeDevice):
                record["driver"] = describe_node(opened)
        record["hsm"] = describe_hsm(opened)
        if chain_file is not None:
            save_chain(opened, chain_file)
    if as_json:
        print_json(record)
    else:
        print_table(flatten(record))


def save_chain(device: OpenDevice, path: Path) -> None:
    """Write the certificate chain, if it holds together."""
    chain = ddi.Partition(device).certificate_chain()
    chain.verify(strict_leaf=False)
    write_output(path, chain.pem())


def describe_function(function: PciFunction) -> dict[str, Any]:
    """Config space and BARs."""
    ids = read_ids(function)
    serial = serial_number(function)
    return {
        "id": f"{ids.vendor:04x}:{ids.device:04x}",
        "subsystem": f"{ids.subsystem_vendor:04x}:{ids.subsystem:04x}",
        "class": f"{ids.class_code:06x}",
        "revision": f"{ids.revision:02x}",
        "serial_number": None if serial is None else f"{serial:016X}",
        "bars": {f"{bar}": function.bar_bytes(bar) for bar in range(6) if function.bar_bytes(bar)},
        "vectors": function.vectors,
        "capabilities": [f"{entry.name} at {entry.offset:#x}" for entry in capabilities(function)],
    }


def describe_controller(controller: Controller) -> dict[str, Any]:
    """Registers, Identify, queues."""
    version = controller.registers.vs
    cap = controller.registers.cap
    return {
        "controller": {
            "version": f"{version.mjr}.{version.mnr}",
            "max_queue_entries": cap.mqes + 1,
            "ready_timeout_s": cap.ready_timeout_s,
            "identity": asdict(controller.identity),
        },
        "queues": {
            "hsm": len(controller.hsm_queues),
            "aes": len(controller.aes_queues),
            "aes_gcm_workaround": controller.gcm_workaround,
        },
    }


def describe_node(device: NodeDevice) -> dict[str, Any]:
    """What a driver says of its device; of its random bytes how many there are, for that is all that can be said."""
    told = device.information()
    return {
        "version": told.driver_version,
        "pci_address": told.pci_address,
        "controller_id": told.controller_id,
        "serial_number": told.serial_number,
        "firmware_revision": told.firmware_revision,
        "entropy_bytes": len(told.entropy),
    }


def describe_hsm(device: OpenDevice) -> dict[str, Any]:
    """The two DDI commands that need neither session nor provisioning."""
    channel = ddi.Channel(device)
    revisions = channel.call(GetApiRevReq(), GetApiRevResp)
    info = channel.call(GetDeviceInfoReq(), GetDeviceInfoResp)
    return {
        "api_revision_min": f"{revisions.min.major}.{revisions.min.minor}",
        "api_revision_max": f"{revisions.max.major}.{revisions.max.minor}",
        "kind": info.kind.name,
        "tables": info.tables,
        "fips_approved": info.fips_approved,
    }
