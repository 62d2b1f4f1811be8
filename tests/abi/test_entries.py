# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of single entries agree with the numpy declarations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE
from ihsm_abi.aes_queue import GCM_SQE
from ihsm_abi.entries import reader
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE


@given(st.data())
def test_reader_gives_what_numpy_gives(data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from([ADMIN_SQE, ADMIN_CQE, HSM_SQE, HSM_CQE]))
    assert entry.names is not None
    names = [name for name in entry.names if data.draw(st.booleans())]
    raw = data.draw(st.binary(min_size=entry.itemsize, max_size=entry.itemsize))
    expected = np.frombuffer(raw, entry, 1)[0]
    assert reader(entry, *names).unpack(raw) == tuple(int(expected[name]) for name in names)


@pytest.mark.parametrize("names", [("tag",), ("none",), ("cmd_id", "attr")])
def test_reader_refuses_what_is_no_number_in_order(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=names[-1]):
        reader(GCM_SQE, *names)
