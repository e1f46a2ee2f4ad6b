"""A process in place of one of Ray's agents: it does nothing, and ends when the raylet that started it does.

A script, not a module: daemons.py has the raylet run this file.
"""

import os
import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is meant for the command
    raylet = os.getppid()
    while os.getppid() == raylet:
        time.sleep(1)
