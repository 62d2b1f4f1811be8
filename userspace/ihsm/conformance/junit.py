# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The report as JUnit's XML: a suite for each machine, a case for each scenario, a failure for each finding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from ihsm.conformance.findings import Result, Suite, Verdict, counts

_NO_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_xml(suites: Sequence[Suite]) -> bytes:
    """The document."""
    root = ElementTree.Element("testsuites", _totals(suites))
    for suite in suites:
        seconds = sum(result.seconds for result in suite.results)
        element = ElementTree.SubElement(
            root, "testsuite", {"name": _text(suite.name), "time": f"{seconds:.3f}"} | _totals([suite])
        )
        properties = ElementTree.SubElement(element, "properties")
        for name, value in suite.properties.items():
            ElementTree.SubElement(properties, "property", name=_text(name), value=_text(value))
        for result in suite.results:
            _add_case(element, suite, result)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _totals(suites: Sequence[Suite]) -> dict[str, str]:
    found = counts(suites)
    return {
        "tests": str(sum(found.values())), "failures": str(found[Verdict.FAILED]), "errors": "0",
        "skipped": str(found[Verdict.SKIPPED]),
    }  # fmt: skip


def _add_case(suite_element: ElementTree.Element, suite: Suite, result: Result) -> None:
    case = ElementTree.SubElement(
        suite_element, "testcase", classname=_text(suite.name), name=_text(result.name), time=f"{result.seconds:.3f}"
    )
    for finding in result.findings:
        failure = ElementTree.SubElement(case, "failure", type=_text(finding.rule), message=_text(str(finding)))
        failure.text = _text("\n".join(finding.proof))
    if result.verdict is Verdict.SKIPPED:
        ElementTree.SubElement(case, "skipped", message=_text(result.skipped))


def _text(text: str) -> str:
    """What XML can hold."""
    return _NO_XML.sub("�", text)
