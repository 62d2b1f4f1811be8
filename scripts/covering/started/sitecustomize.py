# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Counts branches in each Python process of a measured run: an interpreter imports this file when it starts.

A server may open no file when it ends. So the file of the counts is opened before, and all that is done then is to
write to it. A process that is killed, or that leaves by `os._exit`, leaves an empty file. One that may not write
as much leaves a part, which nobody can read.
"""

import atexit
import fcntl
import os
import tempfile

import coverage

_NO_STREAM = 3
"""The first descriptor that is no standard stream, not even where these are closed."""


def _begin(sources: str, folder: str) -> None:
    measured = coverage.Coverage(data_file=None, config_file=False, branch=True, include=f"{sources}/*")
    measured.set_option("run:disable_warnings", ["no-data-collected"])  # tests read what processes write
    measured.get_data().dumps()  # has what it needs imported
    opened, _ = tempfile.mkstemp(dir=folder)
    counts = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _NO_STREAM)
    os.close(opened)
    process = os.getpid()

    def end() -> None:
        if os.getpid() == process:  # not a child, which has its parent's counts
            measured.stop()
            os.write(counts, measured.get_data().dumps())

    atexit.register(end)
    measured.start()


_begin(os.environ["IHSM_COVERED_SOURCES"], os.environ["IHSM_COVERED_COUNTS"])
