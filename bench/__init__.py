"""Which of these image classifiers should I use, and how sure are we?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.reporting.frames import load_results

__all__ = ["__version__", "load_results"]
__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module to execute: `python -m bench.run`
    from bench.uncaught import explain

    sys.excepthook = explain


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for, so that the commands start without pandas."""
    if name == "load_results":
        from bench.reporting.frames import load_results

        return load_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
