# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm status`: what a served function's control socket says; its guest is not disturbed."""

from __future__ import annotations

import click

from ihsm.cli.common import device_option, flatten, json_option, print_json, print_table
from ihsm.control import ControlClient
from ihsm.errors import DeviceNotFoundError, UriError
from ihsm.uri import AUTO, DeviceUri, Scheme, choose_auto


@click.command()
@device_option
@json_option
def status(device: str, as_json: bool) -> None:
    """Print the state of a served function: registers, queues, counters, sessions."""
    uri = choose_auto() if device == AUTO else DeviceUri.parse(device)
    if uri is None:
        raise DeviceNotFoundError("no device found")
    if uri.scheme != Scheme.VFIO_USER:
        raise UriError(f"device URI {str(uri)!r}: only vfio-user:PATH has a control socket")
    with ControlClient(uri.address) as client:
        record = client.status()
    if as_json:
        print_json(record)
    else:
        registers = record.get("registers")
        if isinstance(registers, dict):
            record["registers"] = {
                name: f"{value:#x}" if isinstance(value, int) else value for name, value in registers.items()
            }
        print_table(flatten(record))
