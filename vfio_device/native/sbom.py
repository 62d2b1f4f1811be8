# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The bill of materials of a build, CycloneDX 1.6 in JSON: what is linked in, and the Python packages that it runs on.

What is linked in is read from the build folder and the libraries that it names; versions are those found there.
Packages are those of requirements/lock.txt, with which the project is tested; a wheel takes others of the ranges
that it declares. The same build gives the same file. `python sbom.py BUILD_FOLDER` prints it; the build hook puts it
into wheels (PEP 770).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker

import lock_file

SPECIFICATION: Final = "1.6"
ROOT: Final = Path(__file__).resolve().parents[2]
NAMESPACE: Final = uuid.UUID("2a1c8e0e-6a5b-5d0e-9d2c-54f0b7c7f0a3")
"""Of the serial numbers, which are made of the content."""


def bill(build: Path) -> dict[str, Any]:
    """The document for what meson has built in `build`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    packages = [
        package
        for package in lock_file.needed_at_run_time(lock_file.read(ROOT / "requirements" / "lock.txt"))
        if not package.marker or Marker(package.marker).evaluate()
    ]
    native = list(linked(build))
    refs = {package.name: f"pkg:pypi/{package.name}@{package.version}" for package in packages} | {
        lock_file.PROJECT: root
    }
    needs: dict[str, list[str]] = {ref: [] for ref in refs.values()}
    for package in packages:
        for asker in package.via:
            if asker in refs:
                needs[refs[asker]].append(refs[package.name])
    needs[root] += [component["bom-ref"] for component in native]
    components = [*native, *(python_package(package, refs[package.name]) for package in packages)]
    own = {
        "type": "application",
        "bom-ref": root,
        "name": project["name"],
        "version": project["version"],
        "description": project["description"],
        "licenses": [{"license": {"id": project["license"]}}],
        "purl": root,
    }
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPECIFICATION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {"lifecycles": [{"phase": "build"}], "component": own},
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(needs[ref])} for ref in needs]
        + [{"ref": component["bom-ref"], "dependsOn": []} for component in native],
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(document, sort_keys=True))
    return document | {"serialNumber": f"urn:uuid:{serial}"}


def python_package(package: lock_file.Locked, ref: str) -> dict[str, Any]:
    """A package with the hashes of all files that may be installed for it."""
    hashes = [{"alg": "SHA-256", "content": digest} for digest in package.hashes]
    return {
        "type": "library",
        "bom-ref": ref,
        "name": package.name,
        "version": package.version,
        "scope": "required",
        "purl": ref,
        "externalReferences": [
            {"type": "distribution", "url": ref, "comment": "any one of these files", "hashes": hashes}
        ],
    }


def linked(build: Path) -> Iterator[dict[str, Any]]:
    """Components in C, from meson's own account of the build."""
    information = build / "meson-info"
    options = {entry["name"]: entry["value"] for entry in loaded(information / "intro-buildoptions.json")}
    dependencies = {entry["name"]: entry for entry in loaded(information / "intro-dependencies.json")}
    yield aws_lc(Path(options["aws_lc"]))
    source = options["libvfio_user_src"]
    yield libvfio_user(Path(source)) if source else component("libvfio-user", "", "BSD-3-Clause", "dynamic")
    if "json-c" in dependencies:
        linkage = "static" if options["prefer_static"] else "dynamic"
        yield component("json-c", dependencies["json-c"]["version"], "MIT", linkage)


def component(name: str, version: str, licence: str, linkage: str, purl: str = "") -> dict[str, Any]:
    """What every component in C has."""
    ref = purl or f"pkg:generic/{name}{version and '@'}{version}"
    return {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        **({"version": version} if version else {}),
        "scope": "required",
        "licenses": [{"expression": licence}],
        "purl": ref,
        "properties": [{"name": "ihsm:linkage", "value": linkage}],
    }


def aws_lc(prefix: Path) -> dict[str, Any]:
    """The static library in `prefix`, and the source distribution that it was made of where set-up has made it."""
    version = found(r'AWSLC_VERSION_NUMBER_STRING "([\d.]+)"', prefix / "include/openssl/base.h")
    part = component("aws-lc", version, "Apache-2.0 OR ISC", "static", f"pkg:github/aws/aws-lc@v{version}")
    part["hashes"] = [{"alg": "SHA-256", "content": sha256(prefix / "lib/libcrypto.a")}]
    recipe = prefix / "RECIPE"
    if recipe.exists():
        carrier = "pkg:pypi/awscrt@" + found(r"^awscrt==(\S+)", recipe)
        hashes = [{"alg": "SHA-256", "content": found(r"--hash=sha256:([0-9a-f]{64})", recipe)}]
        comment = "the source distribution that carries the source"
        part["externalReferences"] = [
            {"type": "source-distribution", "url": carrier, "comment": comment, "hashes": hashes}
        ]
    return part


def libvfio_user(tree: Path) -> dict[str, Any]:
    """The source tree that is compiled in; revision and changes where set-up has made it."""
    version = found(r"^\s*version: '([^']+)'", tree / "meson.build")
    recipe = tree / "RECIPE"
    if not recipe.exists():
        return component("libvfio-user", version, "BSD-3-Clause", "static")
    repository, revision = found(r"@ git\+(\S+)@[0-9a-f]{40}", recipe), found(r"@ git\+\S+@([0-9a-f]{40})", recipe)
    purl = f"pkg:generic/libvfio-user@{version}?vcs_url=git%2B{repository}%40{revision}"
    part = component("libvfio-user", version, "BSD-3-Clause", "static", purl)
    hashes = [{"alg": "SHA-256", "content": found(r"--hash=sha256:([0-9a-f]{64})", recipe)}]
    comment = "before the changes; hash of 'find include lib -type f | LC_ALL=C sort | xargs sha256sum | sha256sum'"
    part["externalReferences"] = [
        {"type": "vcs", "url": f"git+{repository}@{revision}", "comment": comment, "hashes": hashes}
    ]
    patches = re.findall(r"^([0-9a-f]{64})  (\S+\.patch)$", recipe.read_text(), re.MULTILINE)
    part["pedigree"] = {
        "commits": [{"uid": revision, "url": repository}],
        "patches": [
            {"type": "unofficial", "diff": {"url": f"vfio_device/native/patches/{name}"}} for _, name in patches
        ],
    }
    part["properties"] += [{"name": f"ihsm:patch-sha256:{name}", "value": digest} for digest, name in patches]
    return part


def loaded(path: Path) -> Any:
    """JSON that meson has written."""
    return json.loads(path.read_text())


def found(pattern: str, path: Path) -> str:
    """The first group of a pattern in a file; SystemExit if it is not there, for then the bill would be wrong."""
    match = re.search(pattern, path.read_text(), re.MULTILINE)
    if not match:
        raise SystemExit(f"ihsm cannot be built: {path} does not tell what the bill of materials needs ({pattern})")
    return match[1]


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        print(json.dumps(bill(Path(sys.argv[1])), indent=1))
    except lock_file.NotPinnedError as error:
        raise SystemExit(str(error)) from None
