"""Errors that a user can cause, and the exit code of each."""

from __future__ import annotations

import difflib
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence

_MOST_LISTED = 40
_LONGEST_LINE = 400


class UserError(Exception):
    """Wrong usage. The message says in one line what was wrong and what would be right. Exit code 2."""

    exit_code = 2


class DoesNotFitError(UserError):
    """A request that the machine or cluster can never meet. Exit code 3."""

    exit_code = 3


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint such as ``; did you mean 'cnn'?``, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, valid: Iterable[str], forms: Sequence[str] = ()) -> UserError:
    """Return the error for a name that is not registered; it lists the valid names, or the nearest of very many.

    Args:
        kind: what it is a name of, as 'model'.
        name: what was typed.
        valid: the valid names.
        forms: valid forms of names, as 'torchvision/NAME', to be listed behind them.
    """
    names = sorted(valid)
    if len(names) > _MOST_LISTED:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {len(names):,}, as {names[0]}"
        return UserError(f"unknown {kind} {name!r}; {hint}")
    return UserError(f"unknown {kind} {name!r}; valid: {', '.join([*names, *forms])}{nearest(name, names)}")


def first_line(error: BaseException) -> str:
    """Return the most telling line of an error's message: the last of a remote traceback, else the first.

    A first line that ends in a colon announces the others, which then follow on the same line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Traceback (most recent call last)" in str(error):
        return lines[-1]
    if not lines[0].endswith(":"):
        return lines[0]
    return textwrap.shorten(", ".join(lines).replace(":,", ":"), _LONGEST_LINE, placeholder=" ...")


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command; turn a :class:`UserError` into one line on stderr and its exit code."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) went away: no error of the command
        sys.stderr.close()
        return 0
