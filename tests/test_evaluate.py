"""bench.evaluate as a user runs it: the figures of the record again, from IDX files and from pictures."""

from __future__ import annotations

import argparse
import csv
import json
import pickle
import re
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from checkpoints import Results, mnist_folder, trained
from PIL import Image
from running import Ran, command

from bench.evaluate import main
from bench.learning.data import datasets

PLUGIN = """
def mlp(classes):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
"""

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def results() -> Results:
    return trained()


def accuracy_line(text: str) -> str:
    found = re.search(r"^accuracy .*\(([\d,]+ of [\d,]+)\)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def expected(results: Results) -> str:
    return f"{results.record.test_correct:,} of {results.record.test_images:,}"


def as_pictures(images: np.ndarray, labels: np.ndarray, folder: Path) -> Path:
    """One PNG an image, in a sub-folder per class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / str(label) / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(file, compress_level=1)
    return folder


def test_a_checkpoint_has_the_accuracy_of_its_record(results: Results, tmp_path: Path) -> None:
    ran = command("bench.evaluate", "--weights", results.checkpoint, "--csv", "said.csv", cwd=tmp_path)
    assert ran.code == 0, ran
    assert accuracy_line(ran.out) == expected(results)
    for words in (
        "cnn on the test images of mnist-5k",
        "top-5 accuracy",
        "95 % interval",
        "calibration error",
        "latency",
        "confusion",
    ):
        assert words in ran.out
    with (tmp_path / "said.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000
    assert sum(row["label"] == row["predicted"] for row in rows) == results.record.test_correct


def test_the_same_images_as_a_folder_of_pictures_give_the_same_accuracy(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = as_pictures(results.data.test.images, results.data.test.labels, tmp_path)
    assert main(["--weights", str(results.checkpoint), "--images", str(folder)]) == 0
    assert accuracy_line(capsys.readouterr().out) == expected(results)


def test_pictures_in_object_storage_are_fetched_and_classified(
    results: Results,
    memory_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    images, labels = results.data.test.images[::20], results.data.test.labels[::20]
    folder = as_pictures(images, labels, tmp_path / "pictures")
    fsspec.filesystem("memory").put(str(folder), f"{memory_url}/pictures", recursive=True)

    right = []
    for place in (str(folder), f"{memory_url}/pictures"):
        assert main(["--weights", str(results.checkpoint), "--images", place]) == 0
        right.append(accuracy_line(capsys.readouterr().out))

    assert right[0] == right[1]


def renamed(checkpoint: Path, names: list[str], file: Path) -> Path:
    """A checkpoint whose classes have other names."""
    with safetensors.safe_open(checkpoint, "pt") as stored:
        about = {**stored.metadata(), "class_names": json.dumps(names)}
    safetensors.torch.save_file(safetensors.torch.load_file(checkpoint), file, about)
    return file


@pytest.mark.parametrize(
    "names", ["०१२३४५६७८९", "アイウエオカキクケコ", "абвгдежзик", ["C", "C#", *"Aa+-÷×bB"]], ids="".join
)
def test_folders_named_in_any_script_are_the_classes_that_the_checkpoint_names(
    names: list[str] | str, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = results.data.test.images[::20], results.data.test.labels[::20]
    plain = as_pictures(images, labels, tmp_path / "plain")
    named = as_pictures(images, np.array(list(names))[labels], tmp_path / "named")
    checkpoint = renamed(results.checkpoint, list(names), tmp_path / "named.safetensors")

    right = []
    for weights, folder in ((results.checkpoint, plain), (checkpoint, named)):
        assert main(["--weights", str(weights), "--images", str(folder)]) == 0
        right.append(accuracy_line(capsys.readouterr().out))

    assert right[0] == right[1]


@pytest.mark.parametrize("names", [tuple("०१२३४५६७८९"), ("zero", "one", "two")], ids=["devanagari", "words"])
def test_folders_that_the_checkpoint_does_not_name_are_refused_in_one_sentence(
    names: tuple[str, ...], results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = len(names)
    folder = as_pictures(results.data.test.images[:few], np.array(names), tmp_path / "pictures")
    torch.save(safetensors.torch.load_file(results.checkpoint), tmp_path / "bare.pth")
    for given, words in (
        (["--weights", str(results.checkpoint)], ["of this model; the classes are 0, 1"]),
        (["--weights", str(tmp_path / "bare.pth"), "--model", "cnn"], ["the weights do not name its classes"]),
    ):
        code = main([*given, "--images", str(folder)])
        refused(Ran(code, *capsys.readouterr()), repr(sorted(names)[0]), *words)


def test_weights_that_do_not_name_their_classes_are_given_names(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    images, labels = results.data.test.images[::20], results.data.test.labels[::20]
    plain, named = (
        as_pictures(images, np.array(list(names))[labels], tmp_path / names[1]) for names in ("0123456789", words)
    )
    torch.save(safetensors.torch.load_file(results.checkpoint), tmp_path / "bare.pth")
    bare, given = ["--weights", str(tmp_path / "bare.pth"), "--model", "cnn"], ["--class-names", *words]

    right = []
    for folder, more in ((plain, []), (named, given)):
        assert main([*bare, "--images", str(folder), *more]) == 0
        right.append(accuracy_line(capsys.readouterr().out))
    assert right[0] == right[1]

    wrong: list[tuple[list[str], str]] = [
        ([*bare, "--class-names", "a", "b"], "--class-names has 2 names, but"),
        ([*bare, "--class-names", "a", "b", "a"], "--class-names has 'a' twice"),
        (["--weights", str(results.checkpoint), *given], "names its classes itself: 0, 1, 2"),
    ]
    for options, words_said in wrong:
        code = main([*options, "--images", str(named)])
        refused(Ran(code, *capsys.readouterr()), words_said)


def test_a_data_set_with_other_classes_is_refused_and_with_others_in_order_is_said(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list("ABCDEFGHIJ")
    checkpoint = renamed(results.checkpoint, names, tmp_path / "letters.safetensors")
    code = main(["--weights", str(checkpoint), "--dataset", "mnist-5k"])
    refused(Ran(code, *capsys.readouterr()), "mnist-5k: the classes '0', '1', '2' and 7 more are no classes")
    few = slice(None, None, 20)
    folder = as_pictures(
        results.data.test.images[few], np.array(names)[results.data.test.labels[few]], tmp_path / "ten"
    )
    torch.save(safetensors.torch.load_file(results.checkpoint), tmp_path / "bare.pth")
    given = ["--model", "cnn", "--weights", str(tmp_path / "bare.pth"), "--dataset", f"folder:{folder}"]
    assert main(given) == 0
    assert "assumed those of folder:ten in its order, A to J" in capsys.readouterr().out


def test_the_same_images_in_12_of_16_bits_give_the_same_answers(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = results.data.test.images, results.data.test.labels
    for number, (image, label) in enumerate(zip(images[::10], labels[::10], strict=True)):
        (tmp_path / "deep" / str(label)).mkdir(parents=True, exist_ok=True)
        deep = np.rint(image[0] * (4095 / 255)).astype(np.uint16)
        Image.fromarray(deep).save(tmp_path / "deep" / str(label) / f"{number}.png")
    plain = as_pictures(images[::10], labels[::10], tmp_path / "plain")

    answers = []
    for folder, more in ((plain, []), (tmp_path / "deep", []), (tmp_path / "deep", ["--as-drawing"])):
        assert main(["--weights", str(results.checkpoint), "--images", str(folder), *more]) == 0
        answers.append(int(accuracy_line(capsys.readouterr().out).split()[0]))

    assert answers[0] == answers[1]
    assert answers[2] >= answers[0] - 5


def test_what_was_passed_over_and_what_may_be_meant_are_one_line_each(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(255 - results.data.test.images[0, 0]).save(tmp_path / "on_paper.png")
    for name in ("IMG_1.HEIC", "IMG_2.heif"):
        (tmp_path / name).write_bytes(b"of a phone")

    assert main(["--weights", str(results.checkpoint), "--images", str(tmp_path)]) == 0

    lines = capsys.readouterr().out.splitlines()
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 2
    assert "2 pictures are passed over, as the format is not read (IMG_1.HEIC, IMG_2.heif)" in notes[0]
    assert "--as-drawing" in notes[1]


@pytest.mark.slow
@pytest.mark.mnist
def test_the_whole_mnist_gives_the_same_accuracy_from_idx_files_and_pictures(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist = mnist_folder()
    test = datasets.load("mnist", mnist).test
    folder = as_pictures(test.images, test.labels, tmp_path)
    weights = ["--weights", str(results.checkpoint)]
    assert main([*weights, "--dataset", "mnist", "--data-dir", str(mnist)]) == 0
    from_idx = accuracy_line(capsys.readouterr().out)
    assert main([*weights, "--images", str(folder)]) == 0
    assert accuracy_line(capsys.readouterr().out) == from_idx
    assert from_idx.endswith("of 10,000")


def test_pictures_without_labels_are_read_as_drawings(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        paper = Image.new("L", (400, 300), 250)
        digit = Image.fromarray(255 - results.data.test.images[300 * number, 0]).resize((120, 120))
        paper.paste(digit, (200, 100))
        paper.save(pictures / f"{number}.jpg")
    Image.new("L", (400, 300), 250).save(pictures / "blank.png")
    said = tmp_path / "said.csv"
    given = ["--weights", str(results.checkpoint), "--images", str(pictures), "--as-drawing", "--csv", str(said)]
    assert main(given) == 0
    text = capsys.readouterr().out
    assert "4 pictures without labels" in text
    assert "no ink was found in 1 of the pictures" in text
    with said.open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    labels = results.data.test.labels
    assert [rows[f"{n}.jpg"]["predicted"] for n in range(3)] == [str(labels[300 * n]) for n in range(3)]


@pytest.mark.slow
def test_reading_a_data_set_as_drawings_loses_at_most_20_digits(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--weights", str(results.checkpoint), "--dataset", "mnist-5k", "--as-drawing"]) == 0
    correct = int(accuracy_line(capsys.readouterr().out).split()[0].replace(",", ""))
    assert results.record.test_correct is not None
    assert correct >= results.record.test_correct - 20


def test_a_published_state_dict_is_evaluated(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = safetensors.torch.load_file(results.checkpoint)
    compiled = {f"module._orig_mod.{name}": value for name, value in state.items()}
    for name, content in (
        ("published.pth", {"model_state_dict": state}),
        ("best.ckpt", {"net": compiled, "acc": np.float64(0.98), "args": argparse.Namespace(lr=0.1)}),
        ("no-ending", state),
    ):
        torch.save(content, tmp_path / name)
        assert main(["--model", "cnn", "--weights", str(tmp_path / name), "--dataset", "mnist-5k"]) == 0
        assert accuracy_line(capsys.readouterr().out) == expected(results)


def figures(text: str) -> list[str]:
    found = re.findall(r"^(?:accuracy|cross-entropy|calibration error) .*$", text, re.MULTILINE)
    assert len(found) == 3, text
    return found


def test_a_state_dict_of_another_normalisation_is_evaluated_with_it_and_what_is_assumed_is_said(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(*more: str) -> str:
        assert main([*more, "--dataset", "mnist-5k"]) == 0
        return capsys.readouterr().out

    state = safetensors.torch.load_file(results.checkpoint)
    spread, middle = 0.5 / 0.3081, (0.5 - 0.1307) / 0.3081  # (x - 0.5) / 0.5, as the network was trained to see it
    state["conv1.bias"] = state["conv1.bias"] + middle * state["conv1.weight"].sum((1, 2, 3))
    state["conv1.weight"] = spread * state["conv1.weight"]
    torch.save(state, tmp_path / "published.pth")
    bare = ("--model", "cnn", "--weights", str(tmp_path / "published.pth"))

    expected = evaluated("--weights", str(results.checkpoint))
    given = evaluated(*bare, "--mean", "0.5", "--std", "0.5", "--image-size", "28")
    assumed = evaluated(*bare)

    assert figures(given) == figures(expected)
    assert "assumed" not in given + expected
    assert figures(assumed) != figures(expected)
    assert "note: the weights do not say how pictures were prepared in training: assumed 28 px, grey, " in assumed
    assert "mean 0.1307, std 0.3081" in assumed
    assert "give --image-size and --mean and --std" in assumed


@pytest.mark.usefixtures("registries")
def test_a_users_model_is_evaluated_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    safetensors.torch.save_file(
        {"1.weight": torch.zeros(10, 784), "1.bias": torch.arange(10.0)}, tmp_path / "m.safetensors"
    )
    given = ["--weights", str(tmp_path / "m.safetensors"), "--model", f"{tmp_path / 'mine.py'}:mlp"]
    assert main([*given, "--dataset", "mnist-5k"]) == 0
    assert accuracy_line(capsys.readouterr().out) == "100 of 1,000"  # it always says 9


# --- what is refused: one line, exit code 2, nothing executed ----------------------------------------------------


def refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2, ran
    assert ran.out == "", ran
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran
    assert lines[0].startswith("error: "), ran
    for word in words:
        assert word in lines[0], ran


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owned = tmp_path / "owned"
    torch.save({"conv1.weight": Malicious(owned)}, tmp_path / "evil.pth")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Malicious(owned)))
    shutil.copy(tmp_path / "evil.pth", tmp_path / "evil.safetensors")
    refused(command("bench.evaluate", "--model", "cnn", "--weights", "evil.pth", cwd=tmp_path), "evil.pth")
    for name in ("evil.pt", "evil.safetensors"):
        code = main(["--model", "cnn", "--weights", str(tmp_path / name)])
        refused(Ran(code, *capsys.readouterr()), name)
    assert not owned.exists()


def test_a_checkpoint_of_another_model_is_refused(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(main(["--model", "mobilenet", "--weights", str(results.checkpoint)]), *capsys.readouterr())
    refused(ran, "trained model of cnn, not of mobilenet")


def test_wrong_shapes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 1, 5, 5)}, tmp_path / "other.pth")
    ran = Ran(main(["--model", "cnn", "--weights", str(tmp_path / "other.pth")]), *capsys.readouterr())
    refused(ran, "other.pth do not fit cnn", "conv1.weight has 8x1x5x5, expected 32x1x3x3")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--weights is needed"]),
        (["--weights", "nowhere.pth"], ["nowhere.pth"]),
        (["--weights", "FILE", "--model", "cnm"], ["model 'cnm'", "did you mean 'cnn'"]),
        (["--weights", "FILE", "--dataset", "minst"], ["data set 'minst'", "did you mean 'mnist'"]),
        (["--weights", "FILE", "--images", "nowhere"], ["--images nowhere is not a folder"]),
        (
            ["--weights", "FILE", "--images", ".", "--dataset", "mnist"],
            ["--images cannot be used together with --dataset"],
        ),
        (["--weights", "FILE", "--csv", "nowhere/a.csv"], ["--csv", "no folder"]),
        (["--weights", "FILE", "--model", "nowhere.py:net"], ["--model: cannot read", "nowhere.py"]),
        (["--weigths", "FILE"], ["unknown option '--weigths'", "did you mean '--weights'"]),
        (["--weights", "README.md"], [".safetensors file"]),
        (["--weights", "FILE", "--mean", "0.5"], ["--mean and --std belong together"]),
        (["--weights", "FILE", "--mean", "0.5", "--std", "0"], ["--std finite numbers above 0"]),
        (["--weights", "FILE", "--mean", "0.5", "--std", "nan"], ["--std finite numbers above 0"]),
        (["--weights", "FILE", "--mean", "1", "1", "--std", "1", "1"], ["one number, or three"]),
        (["--weights", "FILE", "--mean", "127.5", "--std", "127.5"], ["pixels from 0 to 1", "by 255"]),
        (["--weights", "FILE", "--image-size", "0"], ["--image-size"]),
        (
            ["--weights", "FILE", "--mean", "0.5", "--std", "0.5"],
            ["says that it was trained on 28 px, grey, mean 0.1307, std 0.3081; leave out --mean and --std"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_message(
    arguments: list[str],
    words: list[str],
    results: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([str(results.checkpoint) if argument == "FILE" else argument for argument in arguments])
    refused(Ran(code, *capsys.readouterr()), *words)


def test_bad_input_is_refused_without_torch(modules_after) -> None:  # type: ignore[no-untyped-def]
    code = "import contextlib, io\nfrom bench.evaluate import main\nassert main(['--weights', 'nowhere.pth']) == 2"
    assert not modules_after(code) & {"torch", "ray"}
