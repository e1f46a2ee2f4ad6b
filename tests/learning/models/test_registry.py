"""Models by name: no name twice, unknown names answered with the valid ones, no torch to look one up."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from bench.errors import UserError
from bench.learning.data.datasets import DATASETS
from bench.learning.models.architecture import Architecture, multiple_of_32
from bench.learning.models.registry import MODELS, find
from bench.learning.registry import Registry
from bench.spec import ModelInput


@pytest.mark.parametrize("registry", [MODELS, DATASETS], ids=lambda registry: registry.kind)
def test_a_name_is_registered_once(registry: Registry[object], registries: None) -> None:
    name, entry = next(iter(registry.items()))

    with pytest.raises(UserError, match=f"{registry.kind} '{name}' is registered twice"):
        registry.add(name, object())
    assert registry[name] is entry


@pytest.mark.parametrize("name", ["", "x\ny", "a=b", "two words", "bell\a", "\u00a0"])
def test_a_name_that_cannot_be_typed_is_refused(name: str) -> None:
    for registry in (MODELS, DATASETS):
        with pytest.raises(UserError, match=f"cannot be the name of a {registry.kind}"):
            registry.add(name, object())
        assert name not in registry


def test_an_architecture_is_built_for_the_pictures_and_classes_of_any_data() -> None:
    built: list[object] = []
    mine = Architecture("mine", lambda classes, form: built.append((classes, form)), head="last")  # type: ignore[func-returns-value, arg-type]
    form = ModelInput(image_size=16, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))

    spec = mine.spec(form)
    spec.build(7)

    assert built == [(7, form)]
    assert (spec.name, spec.input, spec.head, spec.load, spec.built_in) == ("mine", form, "last", None, False)
    assert (dict(mine.wants(True)), mine.fit(50), mine.resizable, dict(mine.sources)) == ({}, 50, True, {})


def test_the_pictures_of_a_model_have_one_mean_and_std_per_channel() -> None:
    for wrong in ({"channels": 3}, {"mean": (0.1, 0.2)}, {"std": ()}):
        with pytest.raises(ValidationError, match="mean and std need a number for each"):
            ModelInput(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("least", "size", "found"), [(32, 1, 32), (32, 32, 32), (32, 33, 64), (75, 28, 75), (75, 96, 96)]
)
def test_a_size_is_brought_to_what_most_networks_ask_for(least: int, size: int, found: int) -> None:
    assert multiple_of_32(least)(size) == found


@pytest.mark.parametrize(("typed", "meant"), [("mobilnet", "mobilenet"), ("CNN", None), ("cn", "cnn"), ("", None)])
def test_an_unknown_model_is_refused_with_the_valid_names_and_the_nearest(typed: str, meant: str | None) -> None:
    with pytest.raises(UserError, match=f"unknown model '{typed}'") as caught:
        find(typed)

    for form in ("torchvision/NAME", "timm/NAME", "FILE.py:NAME", "MODULE:NAME"):
        assert form in str(caught.value)
    assert "cnn, mobilenet" in str(caught.value)
    assert (f"did you mean '{meant}'" in str(caught.value)) == (meant is not None)


def test_models_and_data_sets_are_listed_without_torch_and_ray(modules_after: Callable[[str], set[str]]) -> None:
    modules = modules_after(
        "import bench.config.run, bench.learning.data.datasets, bench.learning.models.weights, bench.learning.inputs\n"
        "from bench.learning.models.registry import MODELS, find\n"
        "assert find('cnn').name == 'cnn'\n"
        "assert {'cnn', 'mobilenet'} <= set(MODELS)\n"
        "bench.learning.data.datasets.load('synthetic')"
    )

    assert not modules & {"torch", "torchvision", "ray", "matplotlib", "pandas"}


def test_a_report_is_made_without_torch_and_ray(modules_after: Callable[[str], set[str]]) -> None:
    assert not modules_after("import bench.report") & {"torch", "torchvision", "ray"}


def test_a_model_of_torchvision_is_found_with_its_weights_and_their_pictures() -> None:
    found = find("torchvision/resnet18")

    wanted = {
        "image_size": 224,
        "channels": 3,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop": 0.875,
        "interpolation": "bilinear",
    }
    assert dict(found.wants(True)) == wanted
    assert ModelInput.model_validate(wanted).resized == 256
    assert dict(found.wants(False)) == {"channels": 3}, "from random weights the size follows from the data"
    assert (found.fit(28), found.fit(100), found.built_in) == (32, 128, False)
    assert [source.describe() for source in found.sources.values()] == ["ImageNet (torchvision IMAGENET1K_V1)"]


@pytest.mark.parametrize(("typed", "meant"), [("torchvision/resnet81", "torchvision/resnet18"), ("torchvision/", "")])
def test_an_unknown_model_of_torchvision_is_refused_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown model '{typed}'") as caught:
        find(typed)

    assert meant in str(caught.value)
    assert len(str(caught.value)) < 300, "there are more than a hundred"


def test_a_model_of_timm_is_found_with_its_weights_and_their_pictures() -> None:
    pytest.importorskip("timm")

    found = find("timm/tf_efficientnet_lite0")

    wanted = dict(found.wants(True))
    assert (wanted["image_size"], wanted["crop"], wanted["interpolation"]) == (224, 0.875, "bicubic")
    assert dict(found.wants(False)) == {"channels": 3}
    assert list(found.sources) == ["imagenet", "bundled"]
    with pytest.raises(UserError, match=r"unknown model 'timm/resnet81'; did you mean .*timm/resnet18"):
        find("timm/resnet81")
    with pytest.raises(UserError, match=r"unknown weights 'timm/resnet18\.nobodys'"):
        find("timm/resnet18.nobodys")


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(UserError, match=r"timm/resnet18 needs the package timm: pip install '.*\[timm\]'"):
        find("timm/resnet18")
