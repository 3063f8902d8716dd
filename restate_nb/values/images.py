"""Images of PIL: PNG where that keeps all of them, else their bytes as they are, with mode, size and palette."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

from restate_nb.errors import NotEncodable
from restate_nb.values.frames import FORMAT, check_format
from restate_nb.values.leaves import bytes_from
from restate_nb.values.parts import binary
from restate_nb.values.tags import Read, Write, tagged

_AS_PNG: Final = frozenset({"1", "L", "LA", "RGB", "RGBA", "I;16"})
"""Modes that PNG keeps to the bit."""

_BYTES: Final = {
    **dict.fromkeys(("L", "P"), 1),
    **dict.fromkeys(("LA", "La", "PA", "I;16", "I;16B", "I;16L"), 2),
    **dict.fromkeys(("RGB", "YCbCr", "LAB", "HSV"), 3),
    **dict.fromkeys(("RGBA", "RGBa", "RGBX", "CMYK", "I", "F"), 4),
}
"""Of each mode that is kept, but that of single bits, how many bytes a pixel has."""

_MOST_PIXELS: Final = 50_000_000  # PIL refuses to open PNGs of many more, since they might be bombs
_LEVEL: Final = 1  # of zlib: a quarter of the time of the usual one, for about as many bytes


def writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How what PIL made is written, by its class; None for all else."""
    from PIL import Image, ImageFile  # noqa: PLC0415 - the user has it loaded

    if kind is Image.Image or issubclass(kind, ImageFile.ImageFile):
        return _write_image
    return None


def _write_image(image: Any, write: Write) -> object:
    if getattr(image, "n_frames", 1) > 1:
        raise NotEncodable(
            f"An image of {image.n_frames} frames would come back as one of them. Return a list: "
            "[frame.copy() for frame in PIL.ImageSequence.Iterator(image)]."
        )
    image.load()
    mode, size = image.mode, list(image.size)
    if mode != "1" and mode not in _BYTES:
        raise NotEncodable(f"An image of mode {mode} cannot be kept. Convert it: value.convert('RGBA').")
    more: dict[str, object] = {}
    if image.palette is not None and mode in ("P", "PA"):
        palette = image.palette
        more["palette"] = [palette.mode, write(bytes(image.im.getpalette(palette.mode, palette.mode)))]
    info = _kept_of(image.info, write)
    if info:
        more["info"] = write(info)
    if mode in _AS_PNG and 0 < size[0] * size[1] <= _MOST_PIXELS:
        sink = io.BytesIO()
        _bare(image).save(sink, "PNG", compress_level=_LEVEL)
        content, form = binary(sink.getbuffer()), "png"
    else:
        content, form = binary(image.tobytes()), "raw"
    return tagged("image", content, format=FORMAT, form=form, mode=mode, shape=size, **more)


def _bare(image: Any) -> Any:
    """The image without its info, parts of which PNG would take for its own."""
    from PIL import Image  # noqa: PLC0415

    bare = Image.Image.copy(image)
    bare.info = {}
    return bare


def _kept_of(info: dict[Any, Any], write: Write) -> dict[Any, Any]:
    """What of the info can be kept."""
    found: dict[Any, Any] = {}
    for key, each in info.items():
        value = str(each) if isinstance(each, str) else each  # PNG's text has a class of its own
        try:
            write([key, value])
        except NotEncodable:
            continue  # an object of the format that the image was read from
        found[key] = value
    return found


def _read_image(written: dict[str, Any], read: Read) -> Any:
    from PIL import Image  # noqa: PLC0415

    check_format(written)
    content, mode = bytes_from(written["v"]), written["mode"]
    width, height = written["shape"]
    size = width, height
    if written["form"] == "png":
        if width * height > _MOST_PIXELS:
            raise ValueError(f"it is no image of {width} x {height}")
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
                if opened.size != size:
                    raise ValueError("it is an image of another size")
                image = Image.Image.copy(opened)
        except (Image.DecompressionBombError, SyntaxError, EOFError) as error:
            raise ValueError(f"it is no image: {error}") from error
        if image.mode != mode:
            raise ValueError(f"it is an image of mode {image.mode}")
        image.info = {}
    elif written["form"] == "raw":
        image = _raw_image(mode, size, content)
    else:
        raise ValueError(written["form"])
    if "palette" in written:
        kind, colours = written["palette"]
        image.putpalette(read(colours), kind)
    if "info" in written:
        image.info = read(written["info"])
    return image


def _raw_image(mode: str, size: tuple[int, int], content: bytes | memoryview) -> Any:
    from PIL import Image  # noqa: PLC0415

    width, height = size
    row = (width + 7) // 8 if mode == "1" else width * _BYTES[mode]
    if min(size) < 0 or row * height != len(content):
        raise ValueError(f"it is no image of {width} x {height}")
    if not content:
        return Image.new(mode, size)
    return Image.frombytes(mode, size, bytes(content))


READERS: Final[dict[str, Callable[[dict[str, Any], Read], Any]]] = {"image": _read_image}
