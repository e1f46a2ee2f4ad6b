"""``python -m bench.profile``: run a benchmark and report the time of each phase."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.config.command_line import run_command
from bench.config.run import Options

_DESCRIPTION = """Do what python -m bench.run does with the same options, then print the time of each phase.
Runs that go on side by side share their time, so that the phases sum to the time on the clock."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(_act, Options, arguments, prog="python -m bench.profile", description=_DESCRIPTION, presets=True)


def _act(options: Options) -> int:
    from bench.workflows.phases import Phases

    phases = Phases("starting Python, reading options")
    from bench.workflows.profile import profile_benchmark

    return profile_benchmark(options, phases)


if __name__ == "__main__":
    sys.exit(main())
