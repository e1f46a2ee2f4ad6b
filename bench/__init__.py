"""Which of these image classifiers should I use, and how sure are we?"""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module to execute: `python -m bench.run`
    from bench.uncaught import explain

    sys.excepthook = explain
