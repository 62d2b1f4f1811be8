# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions of AES commands as exceptions: only one without any status is a success."""

from __future__ import annotations

import numpy as np
import pytest

from ihsm.driver.aes_batch import failed
from ihsm.driver.aes_status import check_status
from ihsm.errors import AesCommandError, AuthenticationFailedError
from ihsm_abi.aes_queue import AES_CQE, AesStatus, EngineError, GcmError, XtsError


@pytest.mark.parametrize("phase", [0, 1])
def test_success_whatever_the_phase(phase: int) -> None:
    check_status(phase, 0)


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize(
    ("sts", "err", "mismatch", "text"),
    [
        (3, 9, True, "CRYPTO_ENGINE_ERROR/TAG_MISMATCH"),
        (2, 0x2A, True, "INVALID_FIELD_GCM/TAG_MISMATCH"),
        (2, 9, False, "INVALID_FIELD_GCM/0x9"),
        (3, 0x2A, False, "CRYPTO_ENGINE_ERROR/0x2a"),
        (0, 9, False, "SUCCESS/9"),
        (1, 1, False, f"INVALID_FIELD_XTS/{XtsError(1).name}"),
        (0x7FFF, 0, False, "0x7fff/0"),
    ],
)
def test_status_pairs(phase: int, sts: int, err: int, mismatch: bool, text: str) -> None:
    with pytest.raises(AesCommandError, match=text) as caught:
        check_status(sts << 1 | phase, err)
    assert isinstance(caught.value, AuthenticationFailedError) == mismatch
    assert (caught.value.sts, caught.value.err) == (sts, err)


def test_the_numbers_of_a_mismatch_are_those_of_the_interface() -> None:
    assert (AesStatus.CRYPTO_ENGINE_ERROR, EngineError.TAG_MISMATCH) == (3, 9)
    assert (AesStatus.INVALID_FIELD_GCM, GcmError.TAG_MISMATCH) == (2, 0x2A)


def test_every_failure_of_a_batch_is_found() -> None:
    completions = np.zeros(6, AES_CQE)
    completions["psf"] = [0, 1, 2, 3, 1, 0]
    completions["err"] = [0, 0, 0, 0, 9, 1]
    assert failed(completions).tolist() == [2, 3, 4, 5]
