# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A machine's /dev and /sys for programs of the host, which are unmodified and know of no model.

`files` is what they see and do there, in whichever way their calls come: `notify` takes them from the host's kernel,
`preload` from a library in the programs. `run` puts a machine, a program and a way together.
"""
