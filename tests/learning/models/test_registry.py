"""The registry of models: no name twice, unknown names answered with the valid ones, no torch to read it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.errors import UserError
from bench.learning.data.datasets import DATASETS
from bench.learning.models.registry import MODELS, register
from bench.learning.registry import Registry


@pytest.mark.parametrize("registry", [MODELS, DATASETS], ids=lambda registry: registry.kind)
def test_a_name_is_registered_once(registry: Registry[object], registries: None) -> None:
    name, entry = next(iter(registry.items()))

    with pytest.raises(UserError, match=f"{registry.kind} '{name}' is registered twice"):
        registry.add(name, object())
    assert registry[name] is entry


def test_a_model_of_ones_own_is_registered_under_its_name(registries: None) -> None:
    @register("mine", input_size=16, channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), backbone="body")
    def build(classes: int) -> object:
        return classes

    spec = MODELS.find("mine")
    assert spec.build(7) == 7
    assert (spec.name, spec.input_size, spec.channels, spec.backbone) == ("mine", 16, 3, "body")
    assert (spec.mean, spec.std, dict(spec.sources)) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), {})
    with pytest.raises(UserError, match="registered twice"):
        register("mine")(build)


def test_a_model_needs_one_mean_and_std_per_channel(registries: None) -> None:
    for wrong in ({"channels": 3}, {"mean": (0.1, 0.2)}, {"std": ()}):
        with pytest.raises(ValueError, match=r"'mine'.*one entry for each"):
            register("mine", **wrong)
    assert "mine" not in MODELS


@pytest.mark.parametrize(("typed", "meant"), [("mobilnet", "mobilenet"), ("CNN", None), ("cn", "cnn"), ("", None)])
def test_an_unknown_model_is_refused_with_the_valid_names_and_the_nearest(typed: str, meant: str | None) -> None:
    with pytest.raises(UserError, match=f"unknown model '{typed}'") as caught:
        MODELS.find(typed)

    assert "cnn, mobilenet" in str(caught.value)
    assert (f"did you mean '{meant}'" in str(caught.value)) == (meant is not None)


def test_models_and_data_sets_are_listed_without_torch_and_ray(modules_after: Callable[[str], set[str]]) -> None:
    modules = modules_after(
        "import bench.config.run, bench.learning.data.datasets, bench.learning.models.weights, bench.learning.plugins\n"
        "from bench.learning.models.registry import MODELS\n"
        "assert {'cnn', 'mobilenet'} <= set(MODELS)\n"
        "bench.learning.data.datasets.load('synthetic')"
    )

    assert not modules & {"torch", "torchvision", "ray", "matplotlib", "pandas"}


def test_a_report_is_made_without_torch_and_ray(modules_after: Callable[[str], set[str]]) -> None:
    assert not modules_after("import bench.report") & {"torch", "torchvision", "ray"}
