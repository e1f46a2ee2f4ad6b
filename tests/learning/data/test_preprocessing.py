"""What a network is given: images normalised, resized, cropped, and grey or in colour, as it asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from bench.learning import onnx as exporting
from bench.learning.checkpoint import Trained
from bench.learning.data.preprocessing import Preprocessor
from bench.learning.models.architecture import ModelSpec
from bench.spec import ModelInput


def form_of(size: int, mean: tuple[float, ...], std: tuple[float, ...], **more: Any) -> ModelInput:
    return ModelInput(image_size=size, channels=len(mean), mean=mean, std=std, **more)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    mean=st.floats(0, 1),
    std=st.floats(0.05, 2),
)
def test_images_are_normalised_with_mean_and_std(seed: int, batch: int, channels: int, mean: float, std: float) -> None:
    means = tuple(mean * factor for factor in (1.0, 0.5, 0.25)[:channels])
    stds = tuple(std * factor for factor in (1.0, 2.0, 3.0)[:channels])
    images = np.random.default_rng(seed).integers(0, 256, (batch, channels, 6, 6), dtype=np.uint8)

    found = Preprocessor(form_of(6, means, stds), "cpu")(torch.from_numpy(images))

    expected = (images / 255 - np.reshape(means, (1, -1, 1, 1))) / np.reshape(stds, (1, -1, 1, 1))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5 / std)


def test_a_grey_image_is_repeated_to_three_channels() -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)

    found = Preprocessor(form_of(8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), "cpu")(images)

    assert found.shape == (2, 3, 8, 8)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]):
        torch.testing.assert_close(found[:, channel], (images[:, 0] / 255 - mean) / std)


def test_a_colour_image_is_made_grey_as_pillow_does() -> None:
    pillow = pytest.importorskip("PIL.Image")
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)

    found = Preprocessor(form_of(8, (0.0,), (1.0,)), "cpu")(torch.from_numpy(images))

    assert found.shape == (3, 1, 8, 8)
    for image, grey in zip(images, found, strict=True):
        expected = np.asarray(pillow.fromarray(image.transpose(1, 2, 0)).convert("L"))
        np.testing.assert_allclose(255 * grey[0].numpy(), expected, atol=1)  # Pillow rounds


@pytest.mark.parametrize(("size", "to"), [(28, 32), (28, 28), (28, 96), (32, 28), (64, 28)])
def test_images_are_resized_as_pillow_does(size: int, to: int) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)

    found = Preprocessor(form_of(to, (0.0,), (1.0,)), "cpu")(torch.from_numpy(image)[None, None])

    expected = np.asarray(pillow.fromarray(image).resize((to, to), pillow.Resampling.BILINEAR))
    np.testing.assert_allclose(255 * found[0, 0].numpy(), expected, atol=2)


@given(
    count=st.integers(1, 3),
    channels=st.sampled_from([(1, 1), (1, 3), (3, 3)]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    more=st.integers(0, 20),
    seed=st.integers(0, 100),
)
def test_images_are_enlarged_as_pytorch_does(
    count: int, channels: tuple[int, int], height: int, width: int, more: int, seed: int
) -> None:
    has, wants = channels
    size, mean, std = max(height, width) + more, (0.1, 0.2, 0.3)[:wants], (0.5, 0.6, 0.7)[:wants]
    images = torch.randint(256, (count, has, height, width), generator=torch.Generator().manual_seed(seed))

    found = Preprocessor(form_of(size, mean, std), "cpu")(images.to(torch.uint8))

    expected = torch.nn.functional.interpolate(images / 255, size=(size, size), mode="bilinear", align_corners=False)
    by_channel = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    expected = (expected - next(by_channel)) / next(by_channel)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_an_oblong_image_becomes_square() -> None:
    images = torch.full((2, 3, 10, 40), 255, dtype=torch.uint8)

    found = Preprocessor(form_of(16, (0.0,) * 3, (1.0,) * 3), "cpu")(images)

    torch.testing.assert_close(found, torch.ones(2, 3, 16, 16))


# --- crop and bicubic ---------------------------------------------------------------------------------------------


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """A picture with soft and hard edges, but of no full contrast: uint8 [3, height, width].

    Where cubic curves overshoot black or white, Pillow cuts off behind the rows and again behind the columns.
    """
    rows, columns = np.mgrid[0:height, 0:width] / 7.0
    waves = [127 + 70 * np.sin(rows * (1 + channel / 3)) * np.cos(columns) for channel in range(3)]
    picture = np.stack(waves).astype(np.uint8)
    picture[:, height // 3 : height // 2, : width // 2] = 200
    picture[:, height // 2 :, width // 2 :] = 50
    return picture


def by_pillow(picture: NDArray[np.uint8], to: int, crop: float, interpolation: str) -> NDArray[np.uint8]:
    pillow = pytest.importorskip("PIL.Image")
    way = pillow.Resampling.BICUBIC if interpolation == "bicubic" else pillow.Resampling.BILINEAR
    whole = pillow.fromarray(picture.transpose(1, 2, 0)).resize((round(to / crop),) * 2, way)
    first = (whole.width - to) // 2
    return np.asarray(whole.crop((first, first, first + to, first + to))).transpose(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.7])
@pytest.mark.parametrize(("size", "to"), [(28, 64), (64, 64), (100, 64), (300, 64)])
def test_the_middle_of_an_image_is_resized_as_pillow_does(size: int, to: int, crop: float, interpolation: str) -> None:
    picture = photo(size, size)
    form = form_of(to, (0.0,) * 3, (1.0,) * 3, crop=crop, interpolation=interpolation)

    found = 255 * Preprocessor(form, "cpu")(torch.from_numpy(picture)[None])[0]

    assert found.shape == (3, to, to)
    np.testing.assert_allclose(found.numpy(), by_pillow(picture, to, crop, interpolation), atol=1.5)


def test_cubic_curves_do_not_overshoot_black_and_white() -> None:
    stripes = np.zeros((3, 40, 40), np.uint8)
    stripes[:, :, 10:17] = stripes[:, :, 25:] = 255

    found = 255 * Preprocessor(form_of(64, (0.0,) * 3, (1.0,) * 3, interpolation="bicubic"), "cpu")(
        torch.from_numpy(stripes)[None]
    )

    assert (float(found.min()), float(found.max())) == (0, pytest.approx(255))
    np.testing.assert_allclose(found[0].numpy(), by_pillow(stripes, 64, 1.0, "bicubic"), atol=1.5)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_t", "mobilenet_v3_small"])
def test_pretrained_models_of_torchvision_see_what_torchvision_shows_them(name: str) -> None:
    from torchvision.models import get_model_weights

    from bench.learning.models.registry import find

    wants = dict(find(f"torchvision/{name}").wants(True))
    form = ModelInput.model_validate(wants)
    images = torch.from_numpy(photo(300, 300))[None]

    found = Preprocessor(form, "cpu")(images)

    expected = get_model_weights(name).DEFAULT.transforms()(images)
    assert found.shape == expected.shape
    grey_levels = (found - expected).abs() * 255 * torch.tensor(form.std).view(1, 3, 1, 1)
    assert float(grey_levels.max()) < 2
    assert float(grey_levels.mean()) < 0.5


def with_flattening(form: ModelInput, image_shape: tuple[int, ...] | None) -> bytes:
    """An ONNX file of a network that answers with its pixels, behind the preprocessing."""
    onnx = pytest.importorskip("onnx")
    floats, helper = onnx.TensorProto.FLOAT, onnx.helper
    outputs = form.channels * form.image_size**2
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["logits"])],
        "flatten",
        [helper.make_tensor_value_info("pixels", floats, ["batch", form.channels, form.image_size, form.image_size])],
        [helper.make_tensor_value_info("logits", floats, ["batch", outputs])],
    )
    opsets = [helper.make_opsetid("", exporting.OPSET)]
    network = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    spec = ModelSpec("flatten", form, build=lambda classes: nn.Flatten(), head=None)
    trained = Trained(nn.Flatten(), spec, tuple(str(number) for number in range(outputs)), {})
    return exporting._with_preprocessing(network, trained, image_shape)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize("channels", [(1, 1), (1, 3), (3, 3), (3, 1)])
def test_an_onnx_file_prepares_images_as_training_does(
    channels: tuple[int, int], crop: float, interpolation: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    has, wants = channels
    mean, std = (0.1, 0.2, 0.3)[:wants], (0.5, 0.6, 0.7)[:wants]
    form = form_of(28, mean, std, crop=crop, interpolation=interpolation)
    rng = np.random.default_rng(0)
    sessions: dict[tuple[int, ...] | None, Any] = {}
    for height, width in ((28, 28), (32, 32), (20, 22), (64, 50), (28, 90)):
        images = rng.integers(0, 256, (3, has, height, width), dtype=np.uint8)
        expected = Preprocessor(form, "cpu")(torch.from_numpy(images)).flatten(1).numpy()
        # a file for images of any size takes colour only if the network does
        for shape in [(has, height, width), *([None] if (has, wants) != (3, 1) else [])]:
            if shape not in sessions:
                sessions[shape] = onnxruntime.InferenceSession(
                    with_flattening(form, shape), providers=["CPUExecutionProvider"]
                )
            (found,) = sessions[shape].run(["logits"], {"images": images})
            np.testing.assert_allclose(found, expected, atol=2e-3, err_msg=f"{shape} {height} {width}")
