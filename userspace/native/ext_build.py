# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""cffi API-mode definition of ihsm._native; prints its C code to the file named on the command line."""

import sys
from pathlib import Path

import cffi

here = Path(__file__).parent
headers = ["ring.h"]
ffi = cffi.FFI()
ffi.cdef("".join((here / header).read_text() for header in headers))
ffi.set_source("ihsm._native", "#include <stdint.h>\n" + "".join(f'#include "{header}"\n' for header in headers))
if __name__ == "__main__":
    ffi.emit_c_code(sys.argv[1])
