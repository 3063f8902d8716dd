"""Proves that images of PIL, tensors of torch and sparse matrices of scipy come back to the bit, inline and with parts;
or are refused in words."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pytest

from restate_nb.errors import NotEncodable, NotReadable
from restate_nb.values.classes import Classes
from restate_nb.values.codec import as_shown, decode, encode
from restate_nb.values.keepable import why_unkeepable
from restate_nb.values.parts import is_joined
from restate_nb.values.what import what_of


def with_parts(*, pickles: bool = False) -> Classes:
    classes = Classes()
    classes.keep_in(None, parts=True, pickles=pickles)
    return classes


def in_both_ways(value: Any) -> list[Any]:
    """What comes back of a value: of JSON alone, and with parts."""
    return [decode(encode(value, classes), classes) for classes in (None, with_parts())]


# ---------------------------------------------------------------- PIL

Image = pytest.importorskip("PIL.Image")
MODES = [
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "I", "F", "I;16", "I;16B", "I;16L", "CMYK"),
    *("YCbCr", "HSV", "LAB"),
]
NOISE = np.random.default_rng(5)


def random_bytes(count: int) -> bytes:
    return NOISE.integers(0, 256, count, dtype=np.uint8).tobytes()


def an_image(mode: str, size: tuple[int, int]) -> Any:
    image = Image.new(mode, size)
    if min(size):
        image = Image.frombytes(mode, size, random_bytes(len(image.tobytes())))
    if mode in ("P", "PA"):
        image.putpalette(random_bytes(300))
        image.info["transparency"] = 3
    return image


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_comes_back_to_the_bit(mode: str) -> None:
    for size in ((0, 0), (0, 5), (1, 1), (7, 5), (130, 90)):
        image = an_image(mode, size)
        for back in in_both_ways(image):
            assert back == image and type(back) is Image.Image, size  # PIL compares mode, size, pixels, palette, info
            assert back.tobytes() == image.tobytes()
            assert back.getpalette() == image.getpalette()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_an_image_that_was_read_from_a_file_comes_back_with_its_pixels_and_info(form: str) -> None:
    from PIL import PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_itxt("Title", "ß")
    file = io.BytesIO()
    options: dict[str, Any] = {"pnginfo": told, "dpi": (72, 72)} if form == "PNG" else {}
    an_image("RGB", (64, 48)).save(file, form, **options)
    image = Image.open(file)
    for back in in_both_ways({"image": image}):
        assert back["image"].tobytes() == image.tobytes()
        assert back["image"].info == image.info and back["image"].mode == image.mode
        assert back["image"].getpalette() == image.getpalette()


def test_an_image_with_several_frames_is_refused_and_a_list_of_them_is_kept() -> None:
    from PIL import ImageSequence

    file = io.BytesIO()
    first = an_image("L", (8, 8))
    first.save(file, "GIF", save_all=True, append_images=[first.rotate(90)])
    image = Image.open(file)
    with pytest.raises(NotEncodable, match=r"2 frames.*ImageSequence"):
        encode(image)
    frames = [frame.copy() for frame in ImageSequence.Iterator(image)]
    assert [each.tobytes() for each in in_both_ways(frames)[1]] == [each.tobytes() for each in frames]


def test_images_say_what_they_are_and_large_ones_have_parts() -> None:
    image = an_image("RGB", (200, 100))
    raw = encode(image, with_parts())
    assert is_joined(raw) and what_of(raw) == what_of(encode(image)) == "image RGB, 200 x 100"
    assert msgspec.json.decode(as_shown([image])) == ["image RGB, 200 x 100"]
    assert why_unkeepable(Image.Image) is None


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P"])
def test_a_damaged_image_is_a_value_error(mode: str) -> None:
    raw = encode(an_image(mode, (40, 30)))
    content = msgspec.json.decode(raw)
    for change in ({"shape": [40_000, 40_000]}, {"shape": [-1, 5]}, {"mode": "?"}, {"v": "AAAA"}, {"form": "?"}):
        with pytest.raises(ValueError):
            decode(msgspec.json.encode({**content, **change}))
    with pytest.raises(NotReadable, match="newer restate_nb"):
        decode(msgspec.json.encode({**content, "format": 2}))


# ---------------------------------------------------------------- torch


def tensors() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {
        "whole numbers": torch.arange(6).reshape(2, 3),
        "a large one": torch.rand(100, 100),
        "transposed": torch.rand(3, 4).t(),
        "a scalar": torch.tensor(3.5),
        "nothing": torch.zeros(0, 3, dtype=torch.int8),
        "bfloat16": torch.rand(5).to(torch.bfloat16),
        "half": torch.rand(5).half(),
        "bool": torch.tensor([True, False]),
        "conjugated": torch.rand(4, dtype=torch.complex64).conj(),
        "with requires_grad": torch.rand(4).requires_grad_(),
        "float8": torch.rand(4).to(torch.float8_e4m3fn),
        "a view": torch.rand(10, 10)[::2, 1:3],
        "nan": torch.tensor([float("nan"), 1.0]),
    }


def bits(tensor: Any) -> bytes:
    import torch

    plain = tensor.detach().resolve_conj().contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).numpy()) if tensor.numel() else b""


def test_a_tensor_comes_back_to_the_bit() -> None:
    for name, tensor in tensors().items():
        for back in in_both_ways(tensor):
            assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, tensor.requires_grad), (
                name
            )
            assert bits(back) == bits(tensor), name
        assert what_of(encode(tensor)).startswith("tensor ")


def test_a_tensor_that_would_come_back_as_something_else_is_refused() -> None:
    torch = pytest.importorskip("torch")
    refused = {
        "to_dense": torch.rand(3, 3).to_sparse(),
        "plain Tensor": torch.nn.Parameter(torch.rand(3)),
        "detach": torch.rand(3).requires_grad_() * 2,
        r"value\.cpu": torch.empty(3, device="meta"),
        "pickle=True": torch.nn.Linear(2, 3),
    }
    for says, value in refused.items():
        with pytest.raises(NotEncodable, match=says):
            encode(value)
    classes = with_parts(pickles=True)
    model = torch.nn.Linear(200, 300)
    back = decode(encode({"model": model}, classes), classes)["model"]
    assert bits(back.weight) == bits(model.weight)


# ---------------------------------------------------------------- scipy

sparse = pytest.importorskip("scipy.sparse")


@pytest.mark.parametrize("kind", ["csr_array", "csr_matrix", "csc_array", "csc_matrix", "coo_array", "coo_matrix"])
def test_a_sparse_matrix_comes_back_with_what_it_is_made_of(kind: str) -> None:
    for dense in (np.eye(3), np.zeros((0, 4)), np.arange(12.0).reshape(3, 4), np.eye(60, dtype=np.complex64)):
        matrix = getattr(sparse, kind)(dense)
        for back in in_both_ways(matrix):
            assert type(back) is type(matrix) and back.dtype == matrix.dtype and back.shape == matrix.shape
            assert np.array_equal(back.toarray(), dense)
            names = ("row", "col") if kind.startswith("coo") else ("indices", "indptr")
            for each in ("data", *names):
                assert np.array_equal(getattr(back, each), getattr(matrix, each))
    assert what_of(encode(matrix)) == "sparse, 60 x 60"


def test_other_sparse_matrices_are_refused() -> None:
    for value in (sparse.lil_matrix(np.eye(3)), sparse.dok_array(np.eye(3))):
        with pytest.raises(NotEncodable, match="cannot be kept"):
            encode(value)


def test_a_damaged_sparse_matrix_is_a_value_error() -> None:
    content = msgspec.json.decode(encode(sparse.csr_array(np.eye(3))))
    first, second, third = content["v"]
    for change in ({"shape": [1, 1]}, {"v": [first, second]}, {"v": [first, third, second]}, {"of": "lil_matrix"}):
        with pytest.raises(ValueError):
            decode(msgspec.json.encode({**content, **change}))
