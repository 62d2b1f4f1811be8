# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The audit: what is wrong with pins is found without a service, and a service out of reach is no clean result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

import sbom
from auditing import pins, services
from support.waiting import HANG_S

ROOT = Path(__file__).parents[2]
UNREACHABLE = "http://127.0.0.1:9/v1/query"
"""Nothing listens on the port of discarded data."""


@pytest.fixture
def bill() -> dict[str, Any]:
    """The bill of this checkout's build."""
    return sbom.bill(ROOT / "build/native")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the audit reads, to spoil."""
    for name in (
        "pyproject.toml",
        pins.LOCK,
        pins.AWS_LC,
        pins.LIBVFIO_USER,
        *pins.ARCHIVES,
        "userspace/ihsm/debian_packages.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def version_in_lock(name: str) -> str:
    lines = (ROOT / pins.LOCK).read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}==")).split()[0].partition("==")[2]


def test_the_pins_of_this_checkout_hold(checkout: Path, bill: dict[str, Any]) -> None:
    assert pins.findings(ROOT, bill) == []
    assert pins.findings(checkout, bill) == []


def test_a_version_that_is_not_exact_is_found(checkout: Path, bill: dict[str, Any]) -> None:
    edited(checkout / pins.LOCK, "click==", "click>=")
    (line,) = pins.findings(checkout, bill)
    assert "not NAME==VERSION with --hash=sha256:…: click>=" in line


def test_a_hash_of_two_packages_is_found(checkout: Path, bill: dict[str, Any]) -> None:
    path = checkout / pins.LOCK
    click = path.read_text().partition("\nclick==")[2].partition("sha256:")[2][:64]
    rich = path.read_text().partition("\nrich==")[2].partition("sha256:")[2][:64]
    edited(path, click, rich)
    names = [line.split()[1] for line in pins.findings(checkout, bill)]
    assert names == ["click", "rich"]


@pytest.mark.parametrize("declared", ["click>=8.1", "click>=99", "no-such-package"])
def test_a_declared_package_that_is_not_locked_so_is_found(checkout: Path, bill: dict[str, Any], declared: str) -> None:
    edited(checkout / "pyproject.toml", '"click>=8.1"', f'"{declared}"')
    locked = version_in_lock("click") if declared.startswith("click") else "none"
    expected = [f"{pins.LOCK}: {declared} is declared, locked is {locked}; run scripts/lock"]
    assert pins.findings(checkout, bill) == ([] if declared == "click>=8.1" else expected)


def test_another_installed_version_is_found(bill: dict[str, Any]) -> None:
    def installed(name: str) -> str:
        if name == "rich":
            raise PackageNotFoundError
        return "0.1" if name == "click" else pins.version(name)

    assert pins.findings(ROOT, bill, installed) == [
        f"click: locked is {version_in_lock('click')}, installed is 0.1; run scripts/setup",
        f"rich: locked is {version_in_lock('rich')}, installed is none; run scripts/setup",
    ]


@pytest.mark.parametrize(("name", "pin"), [("aws-lc", pins.AWS_LC), ("libvfio-user", pins.LIBVFIO_USER)])
def test_a_linked_library_of_another_origin_is_found(checkout: Path, bill: dict[str, Any], name: str, pin: str) -> None:
    expected = [f"{name}: what is linked is not made of what {pin} pins; run scripts/setup"]
    (part,) = (part for part in bill["components"] if part["name"] == name)
    references = part.pop("externalReferences")
    assert pins.findings(checkout, bill) == expected
    part["externalReferences"] = references
    edited(checkout / pin, "--hash=sha256:", f"--hash=sha256:{'0' * 64} \\\n    --hash=sha256:")
    assert pins.findings(checkout, bill) == expected


@pytest.mark.parametrize("pin", pins.ARCHIVES)
def test_an_archive_without_a_hash_is_found(checkout: Path, bill: dict[str, Any], pin: str) -> None:
    path = checkout / pin
    path.write_text(path.read_text().replace("--hash=sha256:", "--hash=sha1:"))
    assert pins.findings(checkout, bill) == [f"{path.name} has no archive with --hash=sha256:…"]


def test_a_spoiled_table_of_packages_is_found(checkout: Path, bill: dict[str, Any]) -> None:
    edited(checkout / "userspace/ihsm/debian_packages.txt", "  bookworm/", " bookworm/")
    (line,) = pins.findings(checkout, bill)
    assert line.startswith("debian_packages.txt, line ")


class Service(ThreadingHTTPServer):
    """Answers queries as the vulnerability service does."""

    def __init__(self) -> None:
        """Nothing is vulnerable."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.queries: list[dict[str, Any]] = []
        self.vulnerable: dict[str, str] = {}
        """Identifier by what the query has for it: package or commit."""
        self.status = 200
        self.body = b""
        """Sent instead of an answer."""

    @property
    def url(self) -> str:
        """To be asked."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1/query"


class Handler(BaseHTTPRequestHandler):
    """One query."""

    server: Service

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.queries.append(query)
        name = query.get("commit") or query["package"]["name"]
        found = self.server.vulnerable.get(name)
        answer = {"vulns": [{"id": found, "affected": [], "modified": "2026-01-01T00:00:00Z"}]} if found else {}
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body or json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    """A running service."""
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # looks so often whether it shall end
        thread.start()
        yield server
        server.shutdown()
        thread.join(HANG_S)


@pytest.fixture
def small_lock(tmp_path: Path) -> Path:
    """A lock of two packages."""
    path = tmp_path / "lock.txt"
    path.write_text("".join(f"{name} \\\n    --hash=sha256:{'0' * 64}\n" for name in ("click==8.1.0", "rich==13.0.0")))
    return path


def test_vulnerable_packages_are_named(service: Service, small_lock: Path) -> None:
    assert services.vulnerable_packages(small_lock, service.url) == []
    assert {query["package"]["name"] for query in service.queries} == {"click", "rich"}
    service.vulnerable["rich"] = "GHSA-1"
    assert services.vulnerable_packages(small_lock, service.url) == ["rich 13.0.0: GHSA-1"]


def test_packages_that_were_not_looked_up_are_no_clean_result(
    small_lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip-audit exits with 0 then."""
    answer = {"dependencies": [{"name": "rich", "skip_reason": "not found"}], "fixes": []}
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(services.UnknownError, match="1 packages were not looked up: not found"):
        services.vulnerable_packages(small_lock, UNREACHABLE)


def test_linked_libraries_are_asked_for_by_tag_and_commit(service: Service, bill: dict[str, Any]) -> None:
    assert services.vulnerable_libraries(bill, service.url) == []
    tag, commit = service.queries
    assert tag["package"] == {"ecosystem": "GIT", "name": "https://github.com/aws/aws-lc"}
    assert commit == {"commit": (ROOT / pins.LIBVFIO_USER).read_text().partition(".git@")[2].split()[0]}
    service.vulnerable = {commit["commit"]: "CVE-1", tag["package"]["name"]: "CVE-2"}
    assert services.vulnerable_libraries(bill, service.url) == [
        f"aws-lc {tag['version'].removeprefix('v')}: CVE-2",
        f"libvfio-user {commit['commit'][:12]}: CVE-1",
    ]


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"no JSON"), (200, b"[]")])
def test_an_answer_that_is_none_is_not_known(service: Service, bill: dict[str, Any], status: int, body: bytes) -> None:
    service.status, service.body = status, body
    with pytest.raises(services.UnknownError, match=r"/v1/query: "):
        services.vulnerable_libraries(bill, service.url)


def test_withdrawn_releases_that_cannot_be_looked_up_are_not_known(
    small_lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(services.UnknownError, match="No matching distribution"):
        services.withdrawn_packages(small_lock)


def test_withdrawn_releases_are_named(small_lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pip's report, which has a mark for it."""
    entries = [{"is_yanked": name == "rich", "metadata": {"name": name, "version": "1"}} for name in ("click", "rich")]
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho '{json.dumps({'install': entries})}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert services.withdrawn_packages(small_lock) == ["rich 1: withdrawn by its makers"]


def audit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/audit", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_offline_it_asks_nobody() -> None:
    done = audit("--offline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "audit: pins that do not hold: none\n", "")


def test_services_out_of_reach_have_their_own_status_and_are_said() -> None:
    done = audit("--osv-url", UNREACHABLE, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    lines = done.stdout.splitlines()
    assert lines[0] == "audit: pins that do not hold: none"
    asked = ["vulnerabilities of Python packages", "vulnerabilities of linked libraries", "withdrawn releases"]
    assert [line.partition(": NOT KNOWN: ")[0] for line in lines[1:]] == [f"audit: {what}" for what in asked]
    assert (done.returncode, done.stderr) == (3, "")


def test_what_was_found_decides_the_status_whatever_is_not_known(service: Service) -> None:
    service.vulnerable["click"] = "GHSA-1"
    done = audit("--osv-url", service.url, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    lines = done.stdout.splitlines()
    assert lines[1:3] == ["audit: vulnerabilities of Python packages: 1", f"  click {version_in_lock('click')}: GHSA-1"]
    assert lines[3] == "audit: vulnerabilities of linked libraries: none"
    assert lines[4].startswith("audit: withdrawn releases: NOT KNOWN: ")
    assert done.returncode == 1
