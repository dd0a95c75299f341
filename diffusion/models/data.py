"""A user's own data: arrays in .npy and .npz files and folders of images, read and checked.

Nothing is unpickled, and nothing is believed: a file that is empty, cut short, of the wrong kind or with NaN in it is
refused by name before anything is computed.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdesolve.errors import message

__all__ = ["Data", "read_data"]

IMAGES = (".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are read from a folder; all others there are left alone."""

UNREADABLE = (
    *(ValueError, TypeError, OverflowError, EOFError, OSError, MemoryError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""What NumPy raises for files that are no arrays, or whose header has been changed."""

COLOURS = (1, 3)
LAYOUTS = ("first", "last")
ARRAYS = "vectors (n, d), images (n, h, w), (n, c, h, w) or (n, h, w, c) with c = 1 or 3"


@dataclass(frozen=True)
class Data:
    """Examples as they were found.

    values : ``(n, d)`` vectors or ``(n, c, h, w)`` images; integers if they have levels, float32 else.
    levels : number of levels, 256 for 8-bit images; None for real numbers.
    """

    values: Tensor
    levels: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.values.shape[1:])


def read_data(
    path: str | os.PathLike[str], *, key: str | None = None, levels: int | None = None, channels: str | None = None
) -> Data:
    """The examples in a file or folder.

    Parameters
    ----------
    path : a .npy or .npz file, or a folder of images of one size, which are taken in the order of their names, turned
        as their EXIF data say; hidden files are left alone.
    key : which array of a .npz file; may be left out if there is one.
    levels : number of levels of values 0 .. levels - 1. Default: 256 for uint8; else none, the values are real.
    channels : ``"first"`` for ``(n, c, h, w)``, ``"last"`` for ``(n, h, w, c)``; default: where a 1 or a 3 stands.

    Raises
    ------
    FileNotFoundError : there is nothing at `path`.
    ValueError : everything else; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(message("data", str(path), "a .npy or .npz file, or a folder of images"))
    if channels not in (None, *LAYOUTS):
        raise ValueError(message("channels", repr(channels), " or ".join(map(repr, LAYOUTS))))
    if levels is not None and not 2 <= levels <= 2**16:
        raise ValueError(message("levels", repr(levels), "2 to 65536"))
    if path.is_dir():
        array, channels = _folder(path), "last"
    else:
        array = _array(path, key)
    if array.dtype.kind not in "fiu":
        raise ValueError(message("data", f"{path} of dtype {array.dtype}", "real numbers or integers"))
    if 0 in array.shape or array.ndim not in (2, 3, 4):
        advice = "Numbers in a row are vectors of one component: write x[:, None]." if array.ndim == 1 else ""
        raise ValueError(message("data", f"{path} with an array of shape {array.shape}", ARRAYS, advice))
    array = _channels_first(array, channels, path)
    levels = 256 if levels is None and array.dtype == np.uint8 else levels
    return Data(_real(array, path) if levels is None else _levels(array, levels, path), levels)


def _array(path: Path, key: str | None) -> np.ndarray[Any, Any]:
    accepted = "a whole .npy or .npz file of numbers, or a folder of images"
    advice = "Write one by numpy.save(path, array)."
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            if key is not None:
                raise ValueError(f"it is one array, which has no name, and none is {key}")
            return found
        with found:
            names = list(found)
            if key is None and len(names) != 1:
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}; say which by key (--key)")
            if key is not None and key not in names:
                raise ValueError(f"it holds {', '.join(names) or 'nothing'}, and no {key}")
            return np.asarray(found[names[0] if key is None else key])
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(message("data", f"{path} ({reason})", accepted, advice)) from error


def _channels_first(array: np.ndarray[Any, Any], channels: str | None, path: Path) -> np.ndarray[Any, Any]:
    """Vectors as they are; images as ``(n, c, h, w)``."""
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        return array[:, None]
    first, last = array.shape[1] in COLOURS, array.shape[3] in COLOURS
    if channels is None and first == last:
        got = f"{path} with an array of shape {array.shape}, whose channels may stand first or last"
        raise ValueError(message("data", got, ARRAYS, "Say which by channels='first' or channels='last'."))
    return np.moveaxis(array, 3, 1) if channels == "last" or (channels is None and last) else array


def _real(array: np.ndarray[Any, Any], path: Path) -> Tensor:
    if array.dtype.kind != "f":
        advice = "Give their number by levels, or convert them if they are no levels: x.astype('float32')."
        raise ValueError(message("data", f"{path} of dtype {array.dtype}", "real numbers, or levels", advice))
    with np.errstate(over="ignore"):
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    bad = ~values.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        got = f"{path} with NaN or infinite values in {int(bad.sum())} of {len(bad)} examples"
        advice = f"The first is number {int(bad.nonzero()[0])}, counted from 0."
        raise ValueError(message("data", got, "finite numbers (of float32)", advice))
    return values


def _levels(array: np.ndarray[Any, Any], levels: int, path: Path) -> Tensor:
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= levels - 1 and (array.dtype.kind != "f" or bool((array == np.round(array)).all()))):
        got = f"{path} with values from {low:g} to {high:g}"
        raise ValueError(message("data", got, f"whole numbers 0 .. {levels - 1} for levels={levels}"))
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8 if levels <= 256 else np.int32))


def _folder(path: Path) -> np.ndarray[Any, Any]:
    """All images as ``(n, h, w, c)`` of 8 bits; grey if all of them are, in colour else."""
    files = sorted(path.iterdir())
    names = [f for f in files if f.suffix.lower() in IMAGES and f.is_file() and not f.name.startswith(".")]
    if not names:
        raise ValueError(message("data", f"{path} without an image", f"a folder with {', '.join(IMAGES)} files"))
    images = [_image(name) for name in names]
    for name, image in zip(names, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            got = f"{name} of {_size(image)} beside {names[0].name} of {_size(images[0])}"
            raise ValueError(message("data", got, "images of one size"))
    if len({image.shape[2] for image in images}) > 1:
        images = [np.repeat(image, 3, 2) if image.shape[2] == 1 else image for image in images]
    return np.stack(images)


def _image(path: Path) -> np.ndarray[Any, Any]:
    """An image of 8 bits, ``(h, w, 1)`` or ``(h, w, 3)``."""
    from PIL import Image, ImageOps

    accepted = "a whole image of 8 bits, grey or in colour, that covers what is behind it"
    try:
        with Image.open(path) as image:
            pictures = getattr(image, "n_frames", 1)
            if pictures > 1 and image.format != "MPO":  # a photograph, whose others are previews
                raise ValueError(f"it holds {pictures} pictures")
            image.load()
            covering = "transparency" not in image.info and "A" not in image.getbands()
            if not covering and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
                raise ValueError("it is transparent in places")
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it is of mode {image.mode}, not of 8 bits")
            grey = image.mode in ("1", "L", "LA")
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(message("data", f"{path} ({error})", accepted)) from error
    return pixels[:, :, None] if grey else pixels


def _size(image: np.ndarray[Any, Any]) -> str:
    return f"{image.shape[1]}x{image.shape[0]} pixels"
