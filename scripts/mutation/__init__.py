# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/mutants`: changes that break the product, each of which a named test must notice."""
