"""What `make test-conformance` makes of two runs of a suite and of the list of differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import table
from tests.conformance.compare import Known, Outcomes, compare, read_known, read_report
from tests.conformance.suites import SUITES

REPORT = """<testsuites><testsuite>
<testcase classname="tests.api.A" name="passes[x]"/>
<testcase classname="tests.api.A" name="fails"><failure message="m"/></testcase>
<testcase classname="tests.api.A" name="breaks"><error message="m"/></testcase>
<testcase classname="tests.api.A" name="skips"><skipped/></testcase>
<testcase classname="tests.api.A" name="twice"/>
<testcase classname="tests.api.A" name="twice"><error message="in its teardown"/></testcase>
</testsuite></testsuites>"""


def line(tests: str, suite: str = "s", way: str = "v1") -> Known:
    return Known(1, suite, way, tests, "a reason")


def test_a_report_has_each_tests_outcome(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    assert read_report(path, "tests.api.") == {
        "A::passes[x]": "passed",
        "A::fails": "failed",
        "A::breaks": "failed",
        "A::skips": "skipped",
        "A::twice": "failed",
    }


def test_equal_outcomes_are_no_difference() -> None:
    same: Outcomes = {"a": "passed", "b": "failed", "c": "skipped"}
    found = compare("s", "v1", same, same, [line("b", suite="other"), line("b", way="other")])
    assert (found.ran, found.direct, found.through) == (2, 1, 1)
    assert found.differences == found.problems == ()


@pytest.mark.parametrize("through", [{"a": "failed"}, {}, {"a": "skipped"}])
def test_a_difference_that_is_not_listed_is_a_problem(through: Outcomes) -> None:
    found = compare("s", "v1", {"a": "passed"}, through, [])
    assert found.differences == ("a",)
    assert len(found.problems) == 1
    assert "not in differences.txt" in found.problems[0]


def test_a_test_that_passes_only_through_the_router_is_a_difference_too() -> None:
    assert compare("s", "v1", {"a": "failed"}, {"a": "passed"}, []).problems
    assert not compare("s", "v1", {"a": "failed"}, {"a": "passed"}, [line("a")]).problems


def test_a_listed_difference_is_none() -> None:
    direct: Outcomes = {"t::a[x*y]": "passed", "t::b": "passed", "t::c": "failed"}
    through: Outcomes = {"t::a[x*y]": "failed", "t::b": "passed", "t::c": "failed"}
    found = compare("s", "v1", direct, through, [line("t::a[*]")])
    assert found.differences == ("t::a[x*y]",)
    assert found.problems == ()


def test_a_line_that_says_more_than_is_true_is_a_problem() -> None:
    direct: Outcomes = {"a1": "passed", "a2": "passed", "b": "failed"}
    through: Outcomes = {"a1": "failed", "a2": "passed", "b": "failed"}
    known = [line("a*"), line("b"), line("gone")]
    problems = compare("s", "v1", direct, through, known).problems
    assert len(problems) == 3
    assert any("a2 passes both ways" in problem for problem in problems)
    assert sum("no test differs any longer" in problem for problem in problems) == 2


def test_a_line_may_name_tests_by_a_pattern() -> None:
    assert line("t::{get,list}_a[*]").matches("t::list_a[x\ny]")
    for other in ("t::put_a[x]", "t::get_a", "t::get_a[x] ", "t::get,list_a[x]"):
        assert not line("t::{get,list}_a[*]").matches(other)
    assert line("t::a[{1}]").matches("t::a[1]")
    assert line("t.x::a").matches("t.x::a")
    assert not line("t.x::a").matches("t-x::a")


def test_each_line_of_the_list_has_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "differences.txt"
    path.write_text("# comment\n\ns v1 test[a*b] the router has no such path\n")
    assert read_known(path) == [Known(3, "s", "v1", "test[a*b]", "the router has no such path")]
    path.write_text("s v1 test\n")
    with pytest.raises(ValueError, match=r"differences.txt:1: expected 'suite way tests reason'"):
        read_known(path)


def test_a_run_of_one_suite_leaves_the_others_rows() -> None:
    direct: Outcomes = {"a": "passed", "b": "passed"}
    known = [line("a", suite="httplint")]
    it = compare("httplint", "v1", direct, {"a": "failed", "b": "passed"}, known)
    whole = table.tables({("httplint", "1", "v1"): it}, known, "")
    assert "| httplint, v1 | 1 | 2 | 2 | 1 | 1 |\n" in whole
    assert "| httplint, v1 | 1 | a reason |\n" in whole
    other = compare("openai-python", "v1", direct, direct, known)
    both = table.tables({("openai-python", "2", "v1"): other}, known, whole)
    assert both.index("| openai-python, v1 | 2 | 2 | 2 | 2 | 0 |") < both.index("| httplint, v1")
    assert table.tables({("httplint", "1", "v1"): it}, known, both) == both
    assert table.tables({}, known, both) == both


def test_the_list_is_of_suites_that_are_there() -> None:
    ways = {(suite.name, way) for suite in SUITES for way in suite.ways}
    assert [suite.name for suite in SUITES] == list(table.ORDER)
    for known in read_known(Path(__file__).parents[1] / "conformance/differences.txt"):
        assert (known.suite, known.way) in ways, known
