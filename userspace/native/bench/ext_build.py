# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""cffi API-mode definition of ihsm.bench._native; prints its C code to the file named on the command line."""

import sys
from pathlib import Path

import cffi

native = Path(__file__).parents[1]
headers = ["ring.h", "bench/bench.h"]
ffi = cffi.FFI()
ffi.cdef("".join((native / header).read_text() for header in headers))
includes = "".join(f'#include "{header}"\n' for header in headers)
ffi.set_source("ihsm.bench._native", f"#include <stddef.h>\n#include <stdint.h>\n{includes}")
if __name__ == "__main__":
    ffi.emit_c_code(sys.argv[1])
