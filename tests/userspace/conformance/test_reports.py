# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a run says: JUnit's XML, JSON, the exit status."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.cli.conformance import exit_status
from ihsm.conformance.findings import Finding, Result, Suite, Verdict, Witness, counts
from ihsm.conformance.junit import to_xml

BREACH = Finding(Witness.TRACE, "head-posted", "01 §5.1", "head 3 of 2 <posted>", ("#7 doorbell", "#8 completion"))
LOG = Finding(Witness.LOG, "log-oops", "Linux", "NULL pointer", ("line\x1b[0m",))


def suites(*results: Result) -> list[Suite]:
    return [Suite("pt-1", {"kernel": "Linux 6", "module.sha256": "00", "seed": "5"}, list(results))]


def test_a_suite_for_each_machine_and_a_failure_for_each_finding() -> None:
    found = suites(
        Result("load/one", seconds=1.5),
        Result("bind/used", [BREACH, LOG]),
        Result("death/signal", skipped="no signals"),
    )
    root = ElementTree.fromstring(to_xml(found))
    (suite,) = root
    assert dict(suite.attrib) == {
        "name": "pt-1", "time": "1.500", "tests": "3", "failures": "1", "errors": "0", "skipped": "1",
    }  # fmt: skip
    properties = {one.get("name"): one.get("value") for one in suite.findall("properties/property")}
    assert properties == {"kernel": "Linux 6", "module.sha256": "00", "seed": "5"}
    passed, failed, skipped = suite.findall("testcase")
    assert (passed.get("name"), list(passed)) == ("load/one", [])
    assert [(one.get("type"), one.get("message"), one.text) for one in failed] == [
        ("head-posted", "head 3 of 2 <posted> (01 §5.1)", "#7 doorbell\n#8 completion"),
        ("log-oops", "NULL pointer (Linux)", "line\N{REPLACEMENT CHARACTER}[0m"),
    ]
    assert [(one.tag, one.get("message")) for one in skipped] == [("skipped", "no signals")]


@given(st.text(), st.lists(st.text()))
def test_whatever_a_driver_writes_is_xml(message: str, proof: list[str]) -> None:
    finding = Finding(Witness.LOG, "log-driver", "Linux", message, tuple(proof))
    root = ElementTree.fromstring(to_xml(suites(Result("a/b", [finding]))))
    assert root.find("testsuite/testcase/failure") is not None


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ([Result("a")], 0),
        ([Result("a"), Result("b", skipped="why")], 0),
        ([Result("a"), Result("b", [BREACH])], 1),
        ([Result("b", [BREACH], skipped="why")], 1),
        ([Result("b", skipped="why")], 3),
        ([], 3),
    ],
)
def test_skipped_is_not_passed(results: list[Result], status: int) -> None:
    assert exit_status(suites(*results)) == status


def test_as_json() -> None:
    record = suites(Result("a", [BREACH], seconds=0.25), Result("b", skipped="why"))[0].to_json()
    assert record["scenarios"] == [
        {"name": "a", "verdict": "failed", "seconds": 0.25, "findings": [
            {"witness": "trace", "rule": "head-posted", "section": "01 §5.1", "message": "head 3 of 2 <posted>",
             "proof": ["#7 doorbell", "#8 completion"]}]},
        {"name": "b", "verdict": "skipped", "seconds": 0.0, "skipped": "why", "findings": []},
    ]  # fmt: skip
    assert counts(suites(Result("a", [BREACH]), Result("b"))) == {
        Verdict.PASSED: 1, Verdict.FAILED: 1, Verdict.SKIPPED: 0,
    }  # fmt: skip
