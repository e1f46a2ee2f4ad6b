"""Is the time left that a command shows right? Five commands, from a third of their way on.

    python experiments/speed/time_left.py [--out results/reference/speed] [--only NAME ...]

Each command runs on a terminal of its own (a pseudo-terminal), with empty results, while nothing else runs on the
machine. What the live table says is left is read from the screen as it is shown, and compared with what was left in
truth when the command had ended. The line "first words" is how long a user looks at an empty screen.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from measuring import ROOT, environment, markdown, write_page

COMMANDS = {
    "both models, 5,000 digits": "--models cnn mobilenet --dataset mnist-5k",
    "three seeds each": "--models cnn mobilenet --dataset mnist-5k --seeds 3 --epochs 3",
    "one model, untimed": "--models cnn --dataset mnist-5k --epochs 20 --no-timing",
    "four models": "--models cnn strided-cnn mobilenet torchvision/resnet18 --image-size 32 --epochs 3 "
    "--dataset mnist-5k --weights none",
    "three back ends": "--models cnn mobilenet --dataset mnist-5k --epochs 5 --backends eager onnxruntime compile",
}
SHARES = (1 / 3, 0.5, 2 / 3, 0.8, 0.9)
"""Where the forecasts are compared, as shares of the whole command."""
LEFT = re.compile(r"about (?:(\d+):)?(\d+):(\d\d) left")


@dataclass
class Seen:
    """What was seen of a command."""

    seconds: float = 0.0
    """From the start of its process to the end."""
    first_words: float | None = None
    """Seconds until something was on the screen."""
    forecasts: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the start, seconds that were said to be left)."""

    def at(self, share: float) -> tuple[float, float] | None:
        """Return (seconds said to be left, in truth) at a share of the way; None if nothing was said by then."""
        moment = share * self.seconds
        said = [(when, left) for when, left in self.forecasts if when <= moment]
        return (said[-1][1] - (moment - said[-1][0]), self.seconds - moment) if said else None


def watch(words: Sequence[str], cache: str, folder: str) -> Seen:
    """Run a command on a terminal of its own and return what was seen of it.

    Raises:
        RuntimeError: it failed.
    """
    seen, start, text = Seen(), time.monotonic(), ""
    command = [sys.executable, "-m", "bench.run", *words, "--results", f"{folder}/results"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(sys.executable, command, {**environment(cache), "TERM": "xterm-256color"})  # noqa: S606
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    everything = []
    while True:
        select.select([terminal], [], [], 60)
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the command has ended
            break
        if not data:
            break
        now = time.monotonic() - start
        seen.first_words = now if seen.first_words is None else seen.first_words
        everything.append(data.decode(errors="replace"))
        text = (text + everything[-1])[-4000:]
        matches = list(LEFT.finditer(text))
        for match in matches:
            hours, minutes, seconds = (int(part or 0) for part in match.groups())
            seen.forecasts.append((now, 3600 * hours + 60 * minutes + seconds))
        text = text[matches[-1].end() :] if matches else text
    _, status = os.waitpid(pid, 0)
    seen.seconds = time.monotonic() - start
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(everything)[-3000:]}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results/reference/speed")
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    options = parser.parse_args()
    rows, firsts, worst = [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="bench-left-") as cache:
        for name in options.only:
            with tempfile.TemporaryDirectory(prefix="bench-left-") as folder:
                seen = watch(COMMANDS[name].split(), cache, folder)
            firsts.append(seen.first_words or 0.0)
            for share in SHARES:
                compared = seen.at(share)
                if compared is None:
                    rows.append([name, f"{100 * share:.0f} %", "?", f"{(1 - share) * seen.seconds:.0f} s", "?"])
                    continue
                said, truth = compared
                worst = max(worst, abs(said - truth) / truth)
                off = f"{100 * (said - truth) / truth:+.0f} %"
                rows.append([name, f"{100 * share:.0f} %", f"{said:.0f} s", f"{truth:.0f} s", off])
            print(f"{name}: {seen.seconds:.0f} s, first words after {seen.first_words:.1f} s", flush=True)
            print(markdown(rows[-len(SHARES) :], ["command", "of the way", "said", "in truth", "off by"]), flush=True)
    commands = [[name, f"`python -m bench.run {COMMANDS[name]}`"] for name in options.only]
    summary = f"Most off: {100 * worst:.0f} %. First words on the screen after {max(firsts):.1f} s at the latest."
    text = write_page(
        options.out / "time_left.md",
        "The time left, as shown and in truth",
        markdown(rows, ["command", "of the way", "said to be left", "left in truth", "off by"]),
        summary,
        markdown(commands, ["command", ""]),
    )
    print(f"\n{text}")


if __name__ == "__main__":
    main()
