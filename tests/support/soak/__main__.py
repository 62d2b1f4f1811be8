# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/soak`: run for some hours, print the report, and exit with 0 if all went well, 1 if not."""

import argparse
import contextlib
import random
import sys


def main() -> int:
    """Run the soak; an interrupt ends it with the report so far."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="A served device with several functions under load and attack: whether a completion is lost or "
        "doubled, and whether memory, threads, descriptors or the log grow.",
    )
    parser.add_argument("hours", type=float, metavar="HOURS", help="how long, such as 0.05; at least one round")
    parser.add_argument("--doorbell", choices=("trap", "page"), default="trap", help="as for `ihsm serve` (trap)")
    parser.add_argument("--seed", type=int, help="of what is done, and with what (by chance)")
    given = parser.parse_args()
    if not 0 <= given.hours < float("inf"):
        parser.error("HOURS is not a number of hours")
    from support.soak.run import Soak  # all that it needs takes a second to load

    soak = Soak(random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed, given.doorbell)
    with contextlib.closing(soak):
        with contextlib.suppress(KeyboardInterrupt):
            soak.run(given.hours * 3600)
        print(soak.report(), flush=True)
        return 1 if soak.verdict() else 0


if __name__ == "__main__":
    sys.exit(main())
