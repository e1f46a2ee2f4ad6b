"""A comparison as a pull request's comment and as JUnit's XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from bench.reporting.comparison import Checked, Pair, Result
from bench.reporting.continuous_integration import comparison_as_github, comparison_as_junit
from bench.reporting.stats import Difference, Interval
from bench.reporting.verdicts import INFERENCE, LATENCY_P50, MEMORY, RECIPES, TRAINING, Metric, Verdict


def verdict(metric: Metric, first: float, second: float, p: float) -> Verdict:
    value = second - first if metric.in_points else second / first - 1
    difference = Difference(value, Interval(value - 0.01, value + 0.01), p, "a test over the seeds with a long name")
    return Verdict(metric, "OLD", "NEW", first, second, difference)


def pair(name: str, *, accuracy: float = 0.99, p: float = 0.5) -> Pair:
    verdicts = [
        verdict(RECIPES, 0.99, accuracy, p),
        verdict(TRAINING, 1000, 1010, 0.5),
        verdict(INFERENCE, 10_000, 9_900, 0.5),
        verdict(LATENCY_P50, 0.001, 0.0011, 0.5),
        Verdict(MEMORY, "OLD", "NEW", None, None, None, "it was not measured"),
    ]
    return Pair(name, f"{name} on mnist", verdicts, ["note: OLD was trained in fp32, NEW in bf16"])


def result(*pairs: Pair, limits: Checked | None = None) -> Result:
    return Result("OLD", "NEW", ["OLD is main", "NEW is branch"], list(pairs), limits or Checked())


def rendered(comment: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(comment)


def test_the_first_line_says_whether_it_is_good() -> None:
    lost = Checked(broken=["cnn, accuracy: -1.00 points, limit accuracy:-0.2pp"])

    assert comparison_as_github(result(pair("cnn"))).startswith(
        "### :white_check_mark: branch against main: nothing became worse"
    )
    assert "worse in 1 figure" in comparison_as_github(result(pair("cnn", accuracy=0.9, p=0.001))).splitlines()[0]
    broken = comparison_as_github(result(pair("cnn"), limits=lost)).splitlines()
    assert broken[0] == "### :x: branch against main: 1 limit is broken"
    assert broken[1] == "- **cnn, accuracy: -1.00 points, limit accuracy:-0.2pp**"
    unknown = Checked(useless=["latency cannot be checked"])
    assert "not everything could be checked" in comparison_as_github(result(pair("cnn"), limits=unknown))


def test_a_comment_on_ten_models_renders_and_is_short() -> None:
    comment = comparison_as_github(result(*(pair(f"torchvision/some_large_model_{n}") for n in range(10))))

    page = rendered(comment)
    assert len(comment) < 4000
    assert page.count("<tr>") == 11
    assert page.count("<details>") == page.count("</details>") == 1
    assert "shows all" in comment  # what there was no room for


def test_what_differs_by_more_than_noise_is_marked() -> None:
    page = rendered(comparison_as_github(result(pair("cnn", accuracy=0.97, p=0.001))))

    assert "97.00 % (-2.00 points) :small_red_triangle_down:" in page
    assert page.count(":small_red_triangle_down:") == 1


@pytest.mark.parametrize("name", ["a|b", "<script>alert(1)</script>", "@everyone", "a\nb"])
def test_no_name_breaks_the_comment_or_calls_anybody(name: str) -> None:
    comment = comparison_as_github(result(pair(name)))

    page = rendered(comment)
    assert page.count("<tr>") == 2
    assert "<script>" not in page
    assert "@everyone" not in page


def test_junit_has_a_test_for_each_limit() -> None:
    limits = Checked(
        broken=["cnn, accuracy: -1.00 points, limit accuracy:-0.2pp"],
        kept=["mobilenet, accuracy: +0.10 points"],
        not_checked=["cnn, latency p50, limit latency:+5%: cnn was not timed"],
    )

    suite = ElementTree.fromstring(comparison_as_junit(result(pair("cnn"), limits=limits)))  # noqa: S314 - ours

    assert suite.attrib == {"name": "bench.compare", "tests": "3", "failures": "1", "skipped": "1"}
    (failure,) = suite.findall(".//failure")
    assert failure.get("message") == "-1.00 points, limit accuracy:-0.2pp"


@pytest.mark.parametrize("name", ["<a>&\"'", "\x00\x1b[31mred"])
def test_junit_without_limits_fails_what_is_worse_whatever_the_names(name: str) -> None:
    suite = ElementTree.fromstring(comparison_as_junit(result(pair(name, accuracy=0.9, p=0.001))))  # noqa: S314 - ours

    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "1")
