# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Name constraints of certificate authorities (RFC 5280 §4.2.1.10, §6.1.3 (b), (c))."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509

_EMAIL: Final = x509.NameOID.EMAIL_ADDRESS


class NameConstraintError(Exception):
    """A name that the constraints above it do not let pass; `PathError` of `ihsm.ddi.path_validation` is made of it."""


def _attributes(rdn: x509.RelativeDistinguishedName) -> frozenset[tuple[str, str | bytes]]:
    """An RDN for comparison: values without regard to case, width and runs of blanks (RFC 5280 §7.1)."""
    return frozenset((attribute.oid.dotted_string, _folded(attribute.value)) for attribute in rdn)


def _folded(value: str | bytes) -> str | bytes:
    return value if isinstance(value, bytes) else " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def _in_directory(name: x509.Name, base: x509.Name) -> bool:
    """Whether the name begins with all of the base's RDNs."""
    ours, theirs = ([_attributes(rdn) for rdn in each.rdns] for each in (name, base))
    return ours[: len(theirs)] == theirs


def _in_domain(host: str, base: str) -> bool:
    """Whether a host is the base, or has labels more in front; a base of no labels has all of them below it."""
    ours, theirs = (each.lower().strip(".").split(".") for each in (host, base))
    return not base.strip(".") or ours[-len(theirs) :] == theirs


def _host_matches(host: str, base: str) -> bool:
    """The rule of mailboxes and URIs: a domain begins with a dot, and is no host itself."""
    if base.startswith("."):
        return _in_domain(host, base) and host.lower().strip(".") != base.lower().strip(".")
    return host.lower() == base.lower()


def _mailbox_matches(mailbox: str, base: str) -> bool:
    local, _, host = mailbox.rpartition("@")
    if "@" in base:
        base_local, _, base_host = base.rpartition("@")
        return local == base_local and host.lower() == base_host.lower()
    return _host_matches(host, base)


def _uri_matches(uri: str, base: str) -> bool:
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        host = None
    if not host:
        raise NameConstraintError(f"URI {uri!r} names no host, which a name constraint is about")
    return _host_matches(host, base)


def _address_matches(address: Any, base: Any) -> bool:
    network = address if hasattr(address, "network_address") else ipaddress.ip_network(address)
    return bool(network.version == base.version and network.subnet_of(base))


_MATCHES: Final[dict[type[x509.GeneralName], Callable[[Any, Any], bool]]] = {
    x509.DirectoryName: _in_directory,
    x509.DNSName: _in_domain,
    x509.RFC822Name: _mailbox_matches,
    x509.UniformResourceIdentifier: _uri_matches,
    x509.IPAddress: _address_matches,
}


class NameConstraints:
    """What the certificates seen so far let those below them be called."""

    def __init__(self) -> None:
        """Nothing is constrained yet."""
        self._permitted: list[tuple[type[x509.GeneralName], list[x509.GeneralName]]] = []
        """Groups of one certificate and form each: a name of the form must lie in one subtree of every group."""
        self._excluded: list[x509.GeneralName] = []

    def add(self, constraints: x509.NameConstraints) -> None:
        """Constrain further (RFC 5280 §6.1.4 (g))."""
        permitted: dict[type[x509.GeneralName], list[x509.GeneralName]] = {}
        for subtree in constraints.permitted_subtrees or ():
            permitted.setdefault(type(subtree), []).append(subtree)
        self._permitted += permitted.items()
        self._excluded += constraints.excluded_subtrees or ()

    def check(self, subject: x509.Name, alternatives: Iterable[x509.GeneralName]) -> None:
        """Let a certificate's names pass.

        Raises:
            NameConstraintError: one is excluded, lies in no permitted subtree, or has a form whose constraints are not
                known here.
        """
        for name in _names(subject, alternatives):
            for base in self._excluded:
                if type(base) is type(name) and _matches(name, [base]):
                    raise NameConstraintError(f"{_text(name)} is excluded by a name constraint")
            for form, bases in self._permitted:
                if form is type(name) and not _matches(name, bases):
                    raise NameConstraintError(f"{_text(name)} is not permitted by the name constraints")


def _names(subject: x509.Name, alternatives: Iterable[x509.GeneralName]) -> list[x509.GeneralName]:
    names = list(alternatives)
    if not any(isinstance(name, x509.RFC822Name) for name in names):
        # Where mailboxes stood before there were alternative names.
        mailboxes = [attribute.value for attribute in subject.get_attributes_for_oid(_EMAIL)]
        if any(not isinstance(mailbox, str) or not mailbox.isascii() for mailbox in mailboxes):
            raise NameConstraintError("the subject has a mailbox that is no text in ASCII")
        names += [x509.RFC822Name(str(mailbox)) for mailbox in mailboxes]
    return [x509.DirectoryName(subject), *names] if subject.rdns else names


def _matches(name: x509.GeneralName, bases: Sequence[x509.GeneralName]) -> bool:
    match = _MATCHES.get(type(name))
    if match is None:
        raise NameConstraintError(f"name constraints of the form {type(name).__name__} are not known here")
    return any(match(name.value, base.value) for base in bases)


def _text(name: x509.GeneralName) -> str:
    value = name.value
    return value.rfc4514_string() if isinstance(value, x509.Name) else str(value)
