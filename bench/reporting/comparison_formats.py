"""The formats in which bench.compare shows its result."""

from __future__ import annotations

from collections.abc import Callable

from bench.reporting.comparison import Result, comparison_as_json, comparison_as_markdown, comparison_as_text
from bench.reporting.continuous_integration import comparison_as_github, comparison_as_junit

FORMATS: dict[str, Callable[[Result], str]] = {
    "text": comparison_as_text,
    "markdown": comparison_as_markdown,
    "json": comparison_as_json,
    "github": comparison_as_github,
    "junit": comparison_as_junit,
}
"""The functions that show a result, by the name that --format takes."""
