"""The kinds of files that are given as weights and hold something else, recognised by how they begin."""

from __future__ import annotations

import io
import zipfile

_STATE_DICT = "save a state dict instead: torch.save({}.state_dict(), 'weights.pth')"
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; get it with: git lfs pull"),
    (b"<!DOCTYPE", "a web page: the download failed; get the file again"),
    (b"<!doctype", "a web page: the download failed; get the file again"),
    (b"<html", "a web page: the download failed; get the file again"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it; PyTorch's state dict or safetensors is needed"),
    (b"\x93NUMPY", "a NumPy array; PyTorch's state dict or safetensors is needed"),
)


def other_kind(content: bytes) -> str | None:
    """Return what a file is that holds no readable weights, and what to do, or None if its beginning does not tell.

    Args:
        content: the file's bytes.
    """
    for beginning, kind in _BEGINNINGS:
        if content.lstrip()[: len(beginning)] == beginning or content.startswith(beginning):
            return kind
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = ["/" + name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError):
        return None
    if any(name.startswith("/code/") for name in names):
        return f"a TorchScript archive, a network with its code; {_STATE_DICT.format('torch.jit.load(FILE)')}"
    if "/archive_format" in names or "/serialized_exported_program.json" in names:
        return f"a program of torch.export; {_STATE_DICT.format('torch.export.load(FILE).module()')}"
    return None
