# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AWS-LC, built from the source that PyPI's awscrt source distribution carries (pinned by hash)."""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from bootstrap.layout import CHECKOUT, cache_root, published
from bootstrap.process import SetupError, run, say, step
from bootstrap.python_env import pip

PIN = CHECKOUT / "requirements" / "aws-lc.txt"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_TESTING=OFF",
    "-DBUILD_LIBSSL=OFF",
    "-DBUILD_TOOL=OFF",
    "-DDISABLE_PERL=ON",
    "-DDISABLE_GO=ON",
    "-DCMAKE_POSITION_INDEPENDENT_CODE=ON",
)
# What the fast path's aes.c needs of the layer below EVP; installed as include-internal/, paths kept.
INTERNAL_HEADERS = (
    "crypto/internal.h",
    *(f"crypto/fipsmodule/{part}/internal.h" for part in ("aes", "cipher", "cpucap", "modes", "service_indicator")),
)


def provide(venv: Path) -> Path:
    """Prefix with include/, include-internal/ and lib/libcrypto.a; cmake, ninja and pip are those of `venv`."""
    if named := os.environ.get("IHSM_AWS_LC"):
        if not Path(named, "include/openssl/is_awslc.h").exists():
            raise SetupError(f"IHSM_AWS_LC={named}: no AWS-LC there (include/openssl/is_awslc.h is missing)")
        say(f"AWS-LC: {named}, named by IHSM_AWS_LC")
        return Path(named)
    parent = cache_root() / "aws-lc"
    recipe = PIN.read_text() + "\n".join(OPTIONS + INTERNAL_HEADERS)
    for built in parent.glob("*/RECIPE"):
        if not built.parent.name.startswith(".") and built.read_text() == recipe:
            say(f"AWS-LC: {built.parent.name}, there already")
            return built.parent
    with step("AWS-LC: fetching and building (about a minute)"), tempfile.TemporaryDirectory() as scratch:
        source = fetch(venv, Path(scratch))
        base_h = (source / "include/openssl/base.h").read_text()
        version = re.search(r'AWSLC_VERSION_NUMBER_STRING "([\d.]+)"', base_h)
        if not version:
            raise SetupError("the AWS-LC source names no version in include/openssl/base.h")
        # A checkout with another recipe keeps its own build.
        target = parent / f"{version[1]}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
        env = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
        build = Path(scratch, "build")
        run(["cmake", "-GNinja", "-S", source, "-B", build, *OPTIONS], env=env)
        run(["ninja", "-C", build, "crypto"], env=env)
        with published(target) as prefix:
            shutil.copytree(source / "include", prefix / "include")
            for header in INTERNAL_HEADERS:
                (prefix / "include-internal" / header).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / header, prefix / "include-internal" / header)
            (prefix / "lib").mkdir()
            shutil.copy2(build / "crypto" / "libcrypto.a", prefix / "lib")
            for notice in ("LICENSE", "NOTICE"):
                shutil.copy2(source / notice, prefix)
            (prefix / "RECIPE").write_text(recipe)
    return target


def fetch(venv: Path, scratch: Path) -> Path:
    """Download the pinned source distribution and take AWS-LC out of it."""
    options = ["--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    run([*pip(venv), "download", *options, "-d", scratch, "-r", PIN])
    archives = list(scratch.glob("awscrt-*.tar.gz"))
    if len(archives) != 1:
        raise SetupError(f"{PIN.name} should give one awscrt source distribution, got {archives}")
    source = scratch / "aws-lc"
    source.mkdir()
    run(["tar", "-xf", archives[0], "-C", source, "--strip-components=3", "--wildcards", "*/crt/aws-lc/*"])
    return source
