# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Debian packages: installed on the machine, or fetched through a private apt and unpacked elsewhere.

The private apt has its own lists, package state and cache; it takes the archive's location, proxies and keys
from the machine's configuration and checks signatures as ever. Nothing of it touches the machine's own state.
What it fetches is held to the table of pins besides (`ihsm.debian_packages`).
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from bootstrap.layout import cache_root
from bootstrap.process import SetupError, output, run, say
from ihsm import debian_packages

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that are not installed."""
    text = output(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages], check=False)
    installed = {line.split()[0] for line in text.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def install(packages: Sequence[str]) -> None:
    """Install packages on the machine; needs root."""
    if os.geteuid() != 0:
        raise SetupError(
            f"these packages are missing and installing them needs root: run 'apt-get install {' '.join(packages)}' "
            "as root, then start again",
            exit_code=77,
        )
    run(["apt-get", "-q", "update"], env=QUIET)
    run(["apt-get", "-q", "install", "-y", "--no-install-recommends", *packages], env=QUIET)


def suite() -> str:
    """Code name of the Debian release this machine runs, e.g. 'bookworm'."""
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise SetupError("/etc/os-release names no VERSION_CODENAME: set-up knows Debian 12 and 13")


def archive() -> str:
    """Location of the Debian archive that the machine's apt configuration names."""
    command = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"]
    for line in output(command).splitlines():
        site, _, release = line.partition(" ")
        if release == suite():
            return site
    raise SetupError(f"apt is not configured for the suite {suite()}: add its archive to /etc/apt/sources.list")


class PrivateApt:
    """An apt of our own over the machine's archive, for suites and sources the machine has not enabled."""

    def __init__(self, name: str, sources: Sequence[str]) -> None:
        """`sources`: words of sources.list without the location, e.g. 'deb trixie main'; pins are the last suite's."""
        self.home = cache_root() / "apt" / name
        self.suite = sources[-1].split()[1] if sources else ""
        self.sources = sources
        self.updated = False

    def _command(self, program: str, *words: str) -> list[str]:
        options = {
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Dir::Etc::SourceList": f"{self.home}/sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": f"{self.home}/lists",
            "Dir::State::status": f"{self.home}/status",
            "Dir::Cache": f"{self.home}",
            "Dir::Cache::archives": f"{self.home}/archives",
        }
        return [program, "-q", *(f"-o{key}={value}" for key, value in options.items()), *words]

    def update(self) -> None:
        """Fetch the package lists and check their signatures; once is enough."""
        if self.updated:
            return
        self.discard()
        for folder in ("lists/partial", "archives/partial"):
            (self.home / folder).mkdir(parents=True)
        lines = []
        for source in self.sources:
            kind, suite_name, component = source.split()
            lines.append(f"{kind} [signed-by={KEYRING}] {archive()} {suite_name} {component}\n")
        (self.home / "sources.list").write_text("".join(lines))
        (self.home / "status").touch()
        run(self._command("apt-get", "update", "-oAPT::Update::Error-Mode=any"), env=QUIET)
        self.updated = True

    def download_with_dependencies(self, package: str, suite_name: str) -> list[Path]:
        """Download a package and everything it depends on, down to the C library."""
        run(self._command("apt-get", "-y", "--download-only", "install", "-t", suite_name, package), env=QUIET)
        return self._held_to_pins((self.home / "archives").glob("*.deb"))

    def locations(self, *words: str) -> list[tuple[str, str]]:
        """File name and SHA-256 of each package that `apt-get WORDS` would fetch, as the signed lists have them."""
        command = self._command("apt-get", "-oAcquire::ForceHash=SHA256", "-y", "--print-uris", *words)
        return re.findall(r"^'\S+' (\S+\.deb) \d+ SHA256:([0-9a-f]{64})$", output(command, env=QUIET), re.MULTILINE)

    def _held_to_pins(self, debs: Iterable[Path]) -> list[Path]:
        files = sorted(debs)
        try:
            beyond = debian_packages.check(files, self.suite)
        except debian_packages.RefusedPackageError as error:
            raise SetupError(str(error)) from None
        if beyond:
            say(f"{len(beyond)} of {len(files)} packages are newer than the pins; Debian's signature alone vouches for")
            say(f"  {' '.join(beyond)}")
        return files

    def source(self, package: str, *, archives_only: bool = False) -> list[Path]:
        """Download the source package; the files that its checked .dsc names, or the upstream archives alone.

        Those are there still when the package's revision has been replaced since the lists were signed.
        """
        folder = self.home / "source"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        options = ["--download-only", "--only-source", *(["--tar-only"] if archives_only else [])]
        run(self._command("apt-get", "source", *options, package), cwd=folder, env=QUIET)
        return sorted(folder.iterdir())

    def download(self, packages: Sequence[str], folder: Path) -> list[Path]:
        """Download binary packages into `folder`."""
        run(self._command("apt-get", "download", *packages), cwd=folder, env=QUIET)
        return self._held_to_pins(folder.glob("*.deb"))

    def depends(self, package: str, prefix: str) -> list[str]:
        """Direct dependencies of a package whose names start with `prefix`."""
        lines = output(self._command("apt-cache", "depends", "--important", package), env=QUIET).splitlines()
        names = [line.split("Depends:")[1].strip() for line in lines if "Depends:" in line]
        return [name for name in names if name.startswith(prefix)]

    def discard(self) -> None:
        """Remove lists and downloads; they are not needed once unpacked."""
        shutil.rmtree(self.home, ignore_errors=True)
