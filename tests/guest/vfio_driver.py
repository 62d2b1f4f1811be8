# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest: the driver over the kernel's VFIO, several processes' worth of it in a row.

Usage: vfio_driver.py RUNS ARENA_MIB. Prints one line of JSON per run and exits with 0 if all went well.
"""

from __future__ import annotations

import json
import os
import sys
import time

from ihsm.bus import Mailbox, PciFunction, SysfsConfig
from ihsm.bus.config_space import capabilities
from ihsm.bus.discovery import find_pci
from ihsm.ddi import Channel
from ihsm.driver import Controller, DriverOptions, FastPathSession
from ihsm.errors import AesCommandError, ForkedError, MailboxNotFoundError
from ihsm.uri import DeviceUri, open_uri
from ihsm_abi.ddi import GetDeviceInfoReq, GetDeviceInfoResp


def device_kind(controller: Controller) -> str:
    """GetDeviceInfo through an HSM ring."""
    return Channel(controller).call(GetDeviceInfoReq(), GetDeviceInfoResp).kind.name


def refused_in_a_child(controller: Controller) -> bool:
    """Whether a child of fork() is refused, with whatever it does; its end must not end the parent's controller."""
    function = controller.function
    child = os.fork()
    if child == 0:
        refusals = 0
        try:
            for operation in (
                lambda: device_kind(controller),
                lambda: function.read_config(0, 4),
                lambda: function.read_bar(0, 0, 4),
                lambda: function.allocate_arena(1 << 12),
                controller.reset,
            ):
                try:
                    operation()
                except ForkedError:
                    refusals += 1
            controller.close()
        finally:
            os._exit(refusals)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


def mailboxes(function: PciFunction) -> dict[str, object]:
    """What the kernel's VFIO shows of a function's mailbox for data objects, and what sysfs shows meanwhile."""
    try:
        Mailbox(function)
        refused = "not refused"
    except MailboxNotFoundError as error:
        refused = str(error)
    with SysfsConfig.open(DeviceUri.parse(function.uri).address) as config:
        discovered = Mailbox(config).discover()
        shown = [[entry.name for entry in capabilities(each) if entry.extended] for each in (function, config)]
    return {"vfio": shown[0], "sysfs": shown[1], "refused": refused, "discovered": discovered}


def run(uri: str, arena_bytes: int, interrupts: bool) -> dict[str, object]:
    """One bring-up with traffic on every ring, a function reset and an arena of its own, and the teardown."""
    start = time.monotonic()
    with open_uri(DeviceUri.parse(uri)) as function, function.allocate_arena(arena_bytes) as extra:
        shown = mailboxes(function)
        extra.array[:: 1 << 12] = 1
        with Controller(function, DriverOptions(interrupts=interrupts, spin_us=0)) as controller:
            kinds = {device_kind(controller) for _ in range(40)}
            for queue in controller.aes_queues:
                try:
                    queue.gcm_encrypt(FastPathSession(0, 0), 1, b"no such key", timeout_s=60)
                except AesCommandError as error:
                    kinds.add(str(error))
            refused = refused_in_a_child(controller)
            kinds |= {device_kind(controller) for _ in range(4)}
            controller.reset(subsystem=True)
            kinds.add(device_kind(controller))
    with open_uri(DeviceUri.parse(uri)) as function:
        function.reset()
    seconds = round(time.monotonic() - start, 2)
    return {
        "seconds": seconds,
        "interrupts": interrupts,
        "seen": sorted(kinds),
        "child_refused": refused,
        "shown": shown,
    }


def main() -> None:
    """Run as often as the command line says."""
    runs, arena_mib = int(sys.argv[1]), int(sys.argv[2])
    (found,) = find_pci()
    for number in range(runs):
        print(json.dumps(run(found.uri, arena_mib << 20, number % 2 == 0)), flush=True)


if __name__ == "__main__":
    main()
