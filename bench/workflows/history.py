"""The history of several versions of the results: as text, and as a page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bench.config.history import HistoryOptions
from bench.errors import UserError
from bench.reporting.files import disk_errors, write_whole
from bench.reporting.history import Version, as_page, as_words, histories
from bench.workflows.versions import revisions_of, store_of


def show_history(options: HistoryOptions) -> None:
    """Print the history, and write the page if one is asked for.

    Raises:
        UserError: a version is neither a folder nor a revision, there is only one, or the page cannot be written.
    """
    names = labels = list(options.versions)
    if options.revisions is not None:
        if len(names) > 1:
            raise UserError("--revisions takes one folder")
        names = revisions_of(names[0], options.revisions)
        labels = [name.partition(":")[0] for name in names]
    if len(names) < 2:
        raise UserError("a history needs two versions or more; name them, the oldest first, or give --revisions N")
    with ExitStack() as stack:
        versions = []
        for name, label in zip(names, labels, strict=True):
            store = store_of(name, Path("results"), stack)
            versions.append(Version(label, store, store.records()[0]))
        found = histories(versions)
        print(as_words(found))
        if options.page is not None:
            with disk_errors(options.page.parent):
                write_whole(options.page, as_page(found).encode())
            print(f"written: {options.page}")
