# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m ihsm` and the `ihsm` command: both begin here.

Nothing but the standard library is imported before the first handler stands, so that a broken installation and an
interrupt during the imports end with one line as well.
"""

from __future__ import annotations

import os
import signal
import sys

BLAS_VARIABLE = "OPENBLAS_NUM_THREADS"
"""How many threads numpy's linear algebra makes when it is loaded, which then spin for a while and do nothing here."""


def run() -> None:
    """Run the command that the process's arguments name; never returns."""
    if BLAS_VARIABLE not in os.environ:
        # For the library alone: programs that we start get `os.environ` as it is.
        os.putenv(BLAS_VARIABLE, "1")
    try:
        from ihsm.cli import main
        from ihsm.cli.streams import prepare_process

        prepare_process()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("IHSM_TRACEBACK"):
            raise
        sys.exit(f"Error: ihsm cannot start: {type(error).__name__}: {error}")
    main()


if __name__ == "__main__":
    run()
