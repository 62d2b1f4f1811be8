# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What others know of the pinned parts: vulnerabilities, and releases that were withdrawn. Each can be out of reach."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final

OSV: Final = "https://api.osv.dev/v1/query"
TIMEOUT_S: Final = 30
"""For one answer of a service."""


class UnknownError(Exception):
    """A service did not tell; the message says which and why, in one line."""


def vulnerable_packages(lock: Path, url: str) -> list[str]:
    """Vulnerabilities of locked Python packages, by pip-audit; a package that was not looked up is an UnknownError."""
    arguments = ["--requirement", str(lock), "--require-hashes", "--disable-pip", "--format", "json"]
    service = ["--vulnerability-service", "osv", "--osv-url", url, "--timeout", str(TIMEOUT_S)]
    command = [sys.executable, "-m", "pip_audit", *arguments, *service, "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise UnknownError(_last_line(done.stderr)) from None
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}"
        for package in packages
        for vulnerability in package.get("vulns", [])
    ]
    # pip-audit takes these for harmless and exits with 0.
    if not found and (skipped := [package for package in packages if "skip_reason" in package]):
        raise UnknownError(f"{len(skipped)} packages were not looked up: {skipped[0]['skip_reason']}")
    return found


def vulnerable_libraries(bill: dict[str, Any], url: str) -> list[str]:
    """Vulnerabilities of what is linked in statically: by tag for AWS-LC, by commit for libvfio-user."""
    parts = {component["name"]: component for component in bill["components"]}
    version = parts["aws-lc"]["version"]
    queries: dict[str, Any] = {
        f"aws-lc {version}": {
            "version": f"v{version}",
            "package": {"ecosystem": "GIT", "name": "https://github.com/aws/aws-lc"},
        }
    }
    for commit in parts["libvfio-user"].get("pedigree", {}).get("commits", []):
        queries[f"libvfio-user {commit['uid'][:12]}"] = {"commit": commit["uid"]}
    found = []
    for name, query in queries.items():
        answer = _ask(url, query)
        found += [f"{name}: {vulnerability['id']}" for vulnerability in answer.get("vulns", [])]
    return found


def withdrawn_packages(lock: Path) -> list[str]:
    """Locked releases that their makers have withdrawn, as pip is told by the package index; nothing is installed."""
    arguments = ["--dry-run", "--ignore-installed", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--report", "-", *arguments, "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnknownError(_last_line(done.stderr))
    metadata = [entry["metadata"] for entry in json.loads(done.stdout)["install"] if entry["is_yanked"]]
    return [f"{package['name']} {package['version']}: withdrawn by its makers" for package in metadata]


def _ask(url: str, query: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(query).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnknownError(f"{url}: {getattr(error, 'reason', error)}") from None
    if not isinstance(answer, dict):
        raise UnknownError(f"{url}: the answer is no JSON object")
    return answer


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no answer"
