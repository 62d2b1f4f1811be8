# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A small kernel with the names of Linux: what a PCI driver of this kind needs, and the checks of debug builds.

A driver writes `from ihsm_kmod.kernel.mutex import Mutex, mutex_lock` as it would `#include <linux/mutex.h>`.
"""
