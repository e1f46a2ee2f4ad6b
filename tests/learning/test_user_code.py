"""A user's own file: loaded once per process, its mistakes reported with its name, its text part of the id."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.learning.data import datasets
from bench.learning.models import model
from bench.learning.models.registry import find
from bench.learning.user_code import UserCode, call, split_name
from bench.spec import ModelInput

pytestmark = pytest.mark.usefixtures("registries")

MINE = """
from torch import nn
from bench.learning.models import model

def plain(classes):
    return nn.Linear(2, classes)

@model(image_size=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resizable=False, head="last")
def described(classes, channels, image_size):
    return nn.Linear(channels * image_size**2, classes)

class Net(nn.Linear):
    def __init__(self, classes, *, image_size=1):
        super().__init__(image_size, classes)

number = 3
"""


def written(folder: Path, source: str) -> Path:
    file = folder / "mine.py"
    file.write_text(source, encoding="utf-8")
    return file


def refused(file: Path, source: str, name: str, kind: str = "model") -> str:
    file.write_text(source, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        UserCode.read(f"{file}:{name}", "--models").get(f"{file}:{name}", kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the name ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ("mine.py:Net", "mine.py", "Net"),
        ("a folder/mine.py:_net", "a folder/mine.py", "_net"),
        ("C:\\mine.py:Net", "C:\\mine.py", "Net"),
        ("/a:b/mine.py:net2", "/a:b/mine.py", "net2"),
        ("package.module:Net", "package.module", "Net"),
    ],
)
def test_a_file_or_module_and_a_name_in_it_is_user_code(text: str, place: str, name: str) -> None:
    assert UserCode.is_named_by(text)
    assert split_name(text) == (place, name)


@pytest.mark.parametrize("text", ["cnn", "mine.py", "mine.py:", ":Net", "mine.py:2net", "folder:/x/y", "timm/x", ""])
def test_other_names_are_not(text: str) -> None:
    assert not UserCode.is_named_by(text)
    with pytest.raises(ValueError, match=r"FILE\.py:NAME"):
        split_name(text)


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_function_or_class_of_a_file_is_a_model(tmp_path: Path) -> None:
    file = written(tmp_path, MINE)

    code = UserCode.read(f"{file}:plain", "--models")

    plain, net = (find(f"{file}:{name}", code) for name in ("plain", "Net"))
    assert plain.name == f"{file}:plain"
    assert tuple(plain.spec(ModelInput()).build(7).weight.shape) == (7, 2)
    assert tuple(net.spec(ModelInput(image_size=5)).build(7).weight.shape) == (7, 5), (
        "it is told what it has a name for"
    )
    assert (dict(plain.wants(True)), plain.resizable, plain.head, plain.built_in) == ({}, True, None, False)
    assert (code.place, code.source) == (str(file), MINE)
    assert code.sha256 == hashlib.sha256(MINE.encode()).hexdigest()


def test_a_model_says_which_pictures_it_wants_to_see(tmp_path: Path) -> None:
    file = written(tmp_path, MINE)

    found = find(f"{file}:described")

    wanted = {"image_size": 8, "channels": 3, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    assert dict(found.wants(False)) == dict(found.wants(True)) == wanted
    assert (found.resizable, found.head) == (False, "last")
    assert tuple(found.spec(ModelInput(**wanted)).build(4).weight.shape) == (4, 3 * 8 * 8)


def test_a_description_of_a_model_needs_mean_and_std_together() -> None:
    for wrong in ({"mean": (0.5,)}, {"std": (0.5,)}):
        with pytest.raises(ValueError, match="mean and std together"):
            model(**wrong)


def test_what_a_model_returns_is_a_module(tmp_path: Path) -> None:
    file = written(tmp_path, "def net(classes):\n    return classes")

    with pytest.raises(UserError, match=f"{file}:net returned int, not a torch.nn.Module"):
        find(f"{file}:net").spec(ModelInput()).build(3)


def test_a_name_that_the_file_has_not_is_refused_with_those_that_it_defines(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"

    message = refused(file, MINE, "plan")

    assert f"{file} has no model 'plan'; it defines Net, described, plain; did you mean 'plain'?" in message
    assert "Linear" not in message, "what it imports is not its own"
    assert "it defines nothing that can be called" in refused(file, "number = 3", "Net")
    assert "has no data set 'Net'" in refused(file, "number = 3", "Net", "data set")


def test_a_name_of_something_that_cannot_be_called_is_refused(tmp_path: Path) -> None:
    assert "mine.py:number is int, not a function or class" in refused(tmp_path / "mine.py", MINE, "number")


# --- data sets -------------------------------------------------------------------------------------------------------

DATA = """
import numpy as np

def digits({parameters}):
    images = np.arange(4 * 36, dtype=np.uint8).reshape(4, 1, 6, 6)
    labels = np.array([0, 1, 0, 1])
    return {returned}

def nothing():
    return 3
"""


def data(folder: Path, returned: str, parameters: str = "") -> datasets.Dataset:
    file = written(folder, DATA.format(returned=returned, parameters=parameters))
    return datasets.load(f"{file}:digits", folder)


def test_a_function_of_a_file_is_a_data_set(tmp_path: Path) -> None:
    found = data(tmp_path, "(images, labels), (images[:2], labels[:2])")

    assert (found.info.train_images, found.info.test_images, found.info.classes) == (4, 2, 2)
    assert found.train.images.shape == (4, 1, 6, 6)
    assert found.class_names == ("0", "1")
    named = data(tmp_path, '(images, labels), (images[:2], labels[:2]), ["cat", "dog"]')
    assert named.class_names == ("cat", "dog")
    assert named.sha256 != found.sha256
    assert np.array_equal(named.train.images, found.train.images)


def test_two_data_sets_of_torchs_kind_agree_on_their_classes(tmp_path: Path) -> None:
    source = """
class Folder:
    def __init__(self, classes):
        self.classes = classes
    def __len__(self):
        return 4
    def __getitem__(self, place):
        import numpy as np
        return np.full((8, 8), place, np.uint8), place % len(self.classes)
def digits():
    return Folder(["bird", "cat", "dog"]), Folder(["cat", "dog"])
"""
    (tmp_path / "mine.py").write_text(source)

    loaded = datasets.load(f"{tmp_path / 'mine.py'}:digits")

    assert [loaded.class_names[label] for label in loaded.test.labels] == ["cat", "dog", "cat", "dog"]


def test_a_data_set_is_told_the_folder_if_it_asks_for_it(tmp_path: Path) -> None:
    pair = "(images, labels + len(data_dir.name) * 0), (images, labels)"

    assert data(tmp_path, pair, "data_dir").info.classes == 2


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("1 / 0", "raised ZeroDivisionError"),
        ("images", "returned ndarray"),
        ("(images, labels),", "returned tuple"),
        ("images, images, images, images", "returned tuple"),
        ("3, 4", "returned int for a split"),
        ("(images, labels[:3]), (images, labels)", "4 training images have 3 labels"),
    ],
)
def test_a_data_set_that_returns_something_else_is_named(returned: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.py:digits") as caught:
        data(tmp_path, returned)

    assert reason in str(caught.value)


def test_a_data_set_that_the_file_has_not_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, DATA.format(returned="3", parameters=""))

    with pytest.raises(UserError, match=r"has no data set 'digit'; it defines digits, nothing; did you mean 'digits'"):
        datasets.load(f"{file}:digit")


# --- loading ---------------------------------------------------------------------------------------------------------


def module_of(code: UserCode) -> object:
    return sys.modules[f"bench_user_code_{code.sha256[:16]}"]


def test_a_file_is_executed_once_per_process(tmp_path: Path) -> None:
    code = UserCode.read(f"{written(tmp_path, MINE)}:plain", "--models")

    assert code.load() is code.load() is module_of(code)
    assert UserCode("the same text from elsewhere.py", MINE).load() is module_of(code)


def test_a_file_travels_as_text(tmp_path: Path) -> None:
    """A worker on another machine has the text and not the file."""
    name = f"{tmp_path / 'not' / 'here.py'}:plain"

    code = UserCode(split_name(name)[0], MINE)

    assert find(name, code).spec(ModelInput()).build(3).out_features == 3


def test_a_module_is_imported_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_models.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)

    code = UserCode.read("their_models:plain", "--models")

    assert (code.place, code.source) == ("their_models", MINE)
    assert code.load() is sys.modules["their_models"]
    assert find("their_models:Net").spec(ModelInput(image_size=2)).build(3).in_features == 2
    del sys.modules["their_models"]


@pytest.mark.parametrize("name", ["no_such_module:Net", "no.such.module:Net", "bench.no_such_module:Net"])
def test_a_module_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"--models: there is no module {split_name(name)[0]}"):
        UserCode.read(name, "--models")


def test_classes_of_a_file_know_their_module(tmp_path: Path) -> None:
    """Pickle, dataclasses and typing look a class up through ``sys.modules``."""
    source = "import dataclasses\n@dataclasses.dataclass\nclass Shape:\n    side: int = 3\nassert __file__"

    code = UserCode.read(f"{written(tmp_path, source)}:Shape", "--models")

    module = module_of(code)
    assert sys.modules[module.Shape.__module__] is module


def test_a_file_means_what_it_means_to_python(tmp_path: Path) -> None:
    """The harness' own ``from __future__ import annotations`` is not the file's."""
    source = "def double(number: int) -> int:\n    return 2 * number"

    code = UserCode.read(f"{written(tmp_path, source)}:double", "--models")

    assert module_of(code).double.__annotations__ == {"number": int, "return": int}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        ("x = '\0'", "null bytes"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_the_reason(source: str, reason: str, tmp_path: Path) -> None:
    file = written(tmp_path, source)

    for _ in range(2):  # a failure is not remembered as loaded
        with pytest.raises(UserError, match=f"{file} cannot be loaded") as caught:
            UserCode.read(f"{file}:net", "--models")
        assert reason in str(caught.value)


def test_a_module_that_raises_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_broken_models.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UserError, match="their_broken_models cannot be loaded: ZeroDivisionError"):
        UserCode.read("their_broken_models:Net", "--models")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.py", tmp_path / "folder.py", binary):
        with pytest.raises(UserError, match=f"--dataset: cannot read {path}"):
            UserCode.read(f"{path}:net", "--dataset")


# --- calling --------------------------------------------------------------------------------------------------------


@given(st.sets(st.sampled_from(["channels", "image_size"])))
def test_a_function_is_given_what_it_has_parameters_for(names: set[str]) -> None:
    function = eval(f"lambda classes{''.join(', ' + name for name in sorted(names))}: dict(locals())")  # noqa: S307

    assert call(function, 3, channels=1, image_size=28) == {
        "classes": 3,
        **{name: value for name, value in {"channels": 1, "image_size": 28}.items() if name in names},
    }


def test_a_builtin_without_a_signature_is_given_what_it_must_have() -> None:
    assert call(dict, [("a", 1)], channels=1) == {"a": 1}
