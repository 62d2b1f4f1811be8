# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The hierarchy of errors: built-in bases, messages that survive them, exit statuses that are documented."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm import errors
from ihsm.cli import main
from ihsm.errors import ForkedError, IhsmError, KeyNotFoundError, StoreError

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def _all(base: type[IhsmError]) -> Iterator[type[IhsmError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _all(kind)


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        (errors.StoreNotFoundError, FileNotFoundError),
        (errors.StoreExistsError, FileExistsError),
        (errors.StoreDamagedError, ValueError),
        (errors.StorePermissionError, PermissionError),
        (errors.WrongPinError, ValueError),
        (errors.PinRequiredError, ValueError),
        (errors.StoreBusyError, BlockingIOError),
        (errors.KeyNotFoundError, KeyError),
        (errors.KeyExistsError, ValueError),
    ],
)
def test_the_store_s_errors(kind: type[StoreError], built_in: type[Exception]) -> None:
    """Each is caught as what it is, as the store's and as the built-in one, and says its message unchanged."""
    with pytest.raises(built_in) as caught:
        raise kind("open 'web': it's gone")
    assert isinstance(caught.value, StoreError)
    assert str(caught.value) == "open 'web': it's gone"
    assert kind.exit_code == 7


def test_an_error_of_a_missing_key_is_no_lookup_s_repr() -> None:
    assert str(KeyNotFoundError("no key 'web'")) == "no key 'web'"
    assert issubclass(KeyNotFoundError, LookupError)


def test_forked_error_names_the_operation_and_travels_between_processes() -> None:
    error = ForkedError("HSM command")
    assert isinstance(error, RuntimeError)
    assert str(error).startswith("HSM command: ")
    assert "fork()" in str(error)
    assert "open the device anew" in str(error)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(other), str(other), other.operation) == (ForkedError, str(error), "HSM command")


def test_every_exit_status_is_documented() -> None:
    statuses = {str(kind.exit_code) for kind in _all(IhsmError) if kind.__module__ == errors.__name__}
    assert "7" in statuses
    listed = set(re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(), re.MULTILINE))
    assert statuses <= listed
    assert listed <= set(re.findall(r"\b(\d+) ", str(main.help)))
