"""Models of torchvision and timm, of different families, are trained and answer without a special case for any."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.learning.context import LocalContext
from bench.learning.data.datasets import Dataset, Split, load
from bench.learning.data.pixels import open_picture, pixels_of
from bench.learning.data.preprocessing import Preprocessor
from bench.learning.execute import execute
from bench.learning.inputs import Inputs
from bench.learning.models.build import with_weights
from bench.learning.models.registry import find
from bench.learning.models.trial import try_out
from bench.learning.models.weights import Wish
from bench.learning.models.weights import find as find_weights
from bench.spec import Job, ModelInput, Recipe, Status

pytestmark = pytest.mark.heavy
COLOUR = {"channels": 3, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
QUICK = ("torchvision/googlenet", "timm/mobilenetv3_small_050")
"""One with further outputs in training, and one whose last layers have another width than its features."""
FAMILIES = (
    *("torchvision/alexnet", "torchvision/vgg11", "torchvision/resnet18", "torchvision/squeezenet1_1"),
    *("torchvision/densenet121", "torchvision/shufflenet_v2_x0_5", "torchvision/mobilenet_v3_small"),
    *("torchvision/efficientnet_b0", "torchvision/regnet_y_400mf", "torchvision/swin_t"),
    *("timm/vit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224", "timm/convnext_atto"),
    *("timm/resnet10t", "timm/efficientvit_b0", "timm/levit_128s", "timm/mixer_s32_224"),
    *("timm/edgenext_xx_small", "timm/regnetx_002", "timm/tf_efficientnet_lite0"),
)


@pytest.fixture(scope="module")
def pictures() -> Dataset:
    return load("synthetic")


def trains_for_20_steps(name: str, data: Dataset) -> None:
    architecture = find(name)
    form = ModelInput.model_validate({**COLOUR, **architecture.wants(False), "image_size": architecture.fit(28)})
    assert try_out(architecture.spec(form), 10, None) is None
    recipe = Recipe(epochs=1, batch_size=2, train_size=41, lr=1e-4)  # the 41st image joins the batch before
    (run,) = Job(model=name, dataset=data.info, recipe=recipe, input=form).runs()
    few = replace(data, test=Split(data.test.images[:20], data.test.labels[:20]))

    measured = execute(run, Inputs(few, None), LocalContext()).measured

    assert measured.status is Status.OK, measured.reason
    assert measured.initial_sha256 != measured.model_sha256


@pytest.mark.parametrize("name", QUICK)
def test_an_unusual_model_trains_for_20_steps(name: str, pictures: Dataset) -> None:
    trains_for_20_steps(name, pictures)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_any_family_trains_for_20_steps(name: str, pictures: Dataset) -> None:
    trains_for_20_steps(name, pictures)


def test_weights_from_a_package_recognise_a_photo() -> None:
    """The photo is one that Gradio ships; timm knows ImageNet's class names."""
    from timm.data import ImageNetInfo

    package = importlib.util.find_spec("gradio")
    assert package is not None
    assert package.origin is not None
    (photo,) = list(Path(package.origin).parent.rglob("cheetah1.jpg"))[:1]
    architecture = find("timm/tf_efficientnet_lite0")
    form = ModelInput.model_validate(architecture.wants(True))
    weights = find_weights(Wish("bundled", for_this_model=True), architecture.name, architecture.sources)
    assert weights is not None
    model = with_weights(architecture.spec(form), 1000, weights).eval()
    pixels = torch.from_numpy(pixels_of(open_picture(photo.read_bytes()), colour=True, size=form.resized))

    with torch.no_grad():
        answer = int(model(Preprocessor(form, "cpu")(pixels[None])).argmax())

    assert "cheetah" in ImageNetInfo().index_to_description(answer)
