"""``python -m bench.profile``: run a benchmark and say where its time went, phase by phase."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.errors import exit_code_of
from bench.options import Options, build_parser, parse

_DESCRIPTION = """Do what python -m bench.run does with the same options, then say where the time of the whole command
went, phase by phase. Where runs go on side by side each counts for its part, so the sum is the time on the clock."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""

    def command() -> int:
        parser = build_parser(Options, "python -m bench.profile", _DESCRIPTION)
        options = parse(parser, Options, arguments)
        from bench.phases import Phases

        phases = Phases("starting Python, reading options")
        from tabulate import tabulate

        from bench.benchmark import profile_table, run_benchmark

        code = run_benchmark(options, phases)
        rows = profile_table(phases, options.results)
        print(f"\nwhere the time went\n\n{tabulate(rows, ['Phase', 'Seconds', 'Share'], disable_numparse=True)}")
        return code

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
