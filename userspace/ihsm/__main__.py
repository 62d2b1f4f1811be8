# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m ihsm`: the same as the `ihsm` command."""

from ihsm.cli import main

if __name__ == "__main__":
    main()
