"""Data sets by name. Reading one needs no torch, unless its library does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.errors import UserError, unknown
from bench.learning.data import files, from_torchvision, from_user
from bench.learning.data.dataset import DATASETS, Dataset, Reading, Split, register
from bench.learning.data.remote import local_folder
from bench.learning.user_code import UserCode
from bench.storage import Place

__all__ = ["DATASETS", "Dataset", "Reading", "Split", "check_name", "load", "register"]


def load(name: str, data_dir: Place | None = None, *, reading: Reading | None = None) -> Dataset:
    """Load the data set called ``name``, from ``data_dir`` if that is given.

    Args:
        name: a built-in data set, ``torchvision/NAME``, ``folder:DIR``, ``npz:FILE``, ``csv:FILE``, ``hf:DIR_OR_NAME``,
            or a user's ``FILE.py:NAME``.
        data_dir: the folder of the data set's files; from object storage it is fetched.
        reading: how to read it.

    Raises:
        UserError: there is no such data set, its files are missing or damaged, or ``data_dir`` is not a folder.
    """
    reading = reading or Reading()
    if data_dir is not None:
        reading = replace(reading, data_dir=local_folder(data_dir, "--data-dir"))
    return _loader(name)(reading)


def check_name(name: str) -> None:
    """Refuse a name that no data set can have.

    Raises:
        UserError: there is no such data set.
    """
    _loader(name)


def _loader(name: str) -> Callable[[Reading], Dataset]:
    if name in DATASETS:
        return lambda reading: DATASETS[name](reading.data_dir)
    kind, colon, rest = name.partition(":")
    if colon and kind in ("folder", "npz", "csv", "hf"):
        if not rest:
            raise UserError(f"--dataset {name}: name the {'folder' if kind == 'folder' else 'file'} behind the colon")
        return {"folder": files.folder, "npz": files.npz, "csv": files.csv, "hf": files.hugging_face}[kind](rest)
    library, slash, short = name.partition("/")
    if slash and library == "torchvision":
        return from_torchvision.loader(short)
    if UserCode.is_named_by(name):
        return from_user.loader(name)
    forms = ("torchvision/NAME", "folder:DIR", "npz:FILE", "csv:FILE", "hf:DIR_OR_NAME", "FILE.py:NAME")
    raise unknown("data set", name, DATASETS, forms)
