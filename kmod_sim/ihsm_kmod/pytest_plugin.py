# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The fixture `ihsm_kmod` for pytest: the driver model on the device of `ihsm_device` (docs/driver-tests.md).

Pytest loads this module by itself wherever ihsm is installed, so it imports nothing before the fixture is used.
`-p no:ihsm_kmod` leaves it out; without the plugin `ihsm`, whose device it takes, it cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from ihsm.embedded import EmbeddedDevice
    from ihsm_kmod.machine import Machine

_FINISH: Final = pytest.StashKey[Callable[[], None]]()
"""Ends the fixture and those that depend on it."""


def pytest_configure(config: pytest.Config) -> None:
    """The mark of the fixture."""
    config.addinivalue_line("markers", "ihsm_kmod(**values): how the machine of ihsm_kmod is made, as a Machine")


@pytest.fixture
def ihsm_kmod(request: pytest.FixtureRequest, ihsm_device: EmbeddedDevice) -> Iterator[Machine]:
    """A machine whose driver has probed `ihsm_device`; its end unloads the driver, in no time if the device has gone.

    `@pytest.mark.ihsm_kmod(dma="strict", quirks={...})` says what machine, with the names of `Machine`.
    """
    from ihsm.bus import VfioUserFunction
    from ihsm_kmod.leaving import hurried
    from ihsm_kmod.machine import Machine

    mark = request.node.get_closest_marker("ihsm_kmod")
    with (
        VfioUserFunction(ihsm_device.socket_path) as function,
        Machine(function, **(mark.kwargs if mark else {})) as machine,
    ):
        yield machine
        with hurried(machine, function):
            machine.close()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
    """Note how the fixture ends."""
    if fixturedef.argname == "ihsm_kmod":
        request.node.stash[_FINISH] = lambda: fixturedef.finish(request)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Have a kernel that has crashed fail its own test alone.

    A call into such a kernel ends with an `Oops`, which is no Exception, and which a fixture gets that closes a node.
    Pytest ends no further fixture after one, so those of the machine are ended first, and the `Oops` is kept from it.
    """
    finish = item.stash.get(_FINISH, None)
    if finish is not None:
        del item.stash[_FINISH]
        item.addfinalizer(lambda: _without_oops(finish))


def _without_oops(finish: Callable[[], None]) -> None:
    from ihsm_kmod.kernel.errors import Oops

    try:
        finish()
    except (Oops, BaseExceptionGroup) as error:
        if isinstance(error, Exception):
            raise
        pytest.fail(f"the kernel of ihsm_kmod has crashed: {_first(error)}", pytrace=False)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
