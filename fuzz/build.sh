#!/usr/bin/env bash
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Build the harnesses in C into $OUT with the sanitizers of $CFLAGS, as fuzzing services ask for it: $CC, $CFLAGS,
# $LIB_FUZZING_ENGINE, $OUT, and $WORK for what is between. After scripts/setup, whose libraries it links.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${CC:?the compiler}" "${CFLAGS:?with a sanitizer and -fsanitize=fuzzer-no-link}" "${LIB_FUZZING_ENGINE:?}" "${OUT:?a folder}"
harnesses=(fuzz_keys fuzz_messages fuzz_engine fuzz_fast_path fuzz_express)
build=${WORK:-$PWD/build/fuzz}/native
export PATH=$PWD/.venv/bin:$PATH LDFLAGS="$CFLAGS ${LDFLAGS:-}"
mapfile -t libraries < <(meson introspect --buildoptions build/native | python3 -c '
import json, sys
for option in json.load(sys.stdin):
    if option["name"] in ("libvfio_user_src", "aws_lc"):
        print("-D{name}={value}".format(**option))')
options=("${libraries[@]}" "-Dfuzzing_engine=$LIB_FUZZING_ENGINE" -Dbuildtype=debugoptimized -Dwerror=false)
# Made anew when the flags are others: meson reads them once.
if [[ $(cat "$build/made-with" 2>/dev/null) != "$CC $CFLAGS ${options[*]}" ]]; then
  rm -rf "$build"
  meson setup "$build" vfio_device/native "${options[@]}"
  echo "$CC $CFLAGS ${options[*]}" >"$build/made-with"
fi
meson compile -C "$build" "${harnesses[@]}"
mkdir -p "$OUT"
for harness in "${harnesses[@]}"; do
  cp "$build/$harness" "$OUT/"
  (cd "fuzz/corpus/${harness#fuzz_}" && python3 -m zipfile -c "$OUT/${harness}_seed_corpus.zip" ./*)
done
