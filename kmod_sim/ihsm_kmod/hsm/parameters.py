# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a build of the driver is, and the parameters it is loaded with (spec 01 §9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from ihsm_abi.uapi_names import DRIVER_NAME
from ihsm_kmod.hsm.quirks import Quirks
from ihsm_kmod.kernel.module import Module, Param


class HsmParameters(Module):
    """The part of the module that all others look at; what it does is `module.HsmModule`."""

    name = DRIVER_NAME
    quirks = Quirks()
    """What this build of the driver gets wrong."""
    test_hooks = False
    """Whether it is built with TEST_HOOK_SUPPORT (spec 02 A.11)."""

    log_mask = Param(int, 0x1, 0o644, "1 error, 2 warn, 4 info, 8 debug, 0x10 entry, 0x20 exit")
    abort_timeout_in_sec = Param(int, 6, 0o444, "seconds without answer before an abort", lambda value: max(value, 6))
    pf_lvl2_abort_enabled = Param(bool, True, 0o444, "whether a PF may do a level-2 abort")
    num_hsm_slots = Param(int, 16, 0o444, "entries of an HSM queue", lambda value: max(value, 2))
    num_aes_slots = Param(int, 16, 0o444, "entries of an AES queue", lambda value: max(value, 2))
    pf_res_cnt = Param(int, 1, 0o444, "resources that a PF gives itself", lambda value: min(value, 64))

    @classmethod
    def built_with(cls, *, quirks: Mapping[str, bool] | None = None, test_hooks: bool = False) -> type[Self]:
        """The module of another build."""
        return type(cls.__name__, (cls,), {"quirks": Quirks(quirks), "test_hooks": test_hooks})
