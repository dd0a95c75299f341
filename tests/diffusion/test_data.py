"""Data as users have them: every layout is read as it is meant, and what cannot be trained on is named; scaling moves
densities by its volume."""

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.models.data import Data, read_data
from diffusion.models.scaling import Scaling

NUMBERS = np.random.default_rng(0)
GREY = NUMBERS.integers(0, 256, (4, 5, 6), dtype=np.uint8)
COLOUR = NUMBERS.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


def saved(path: Path, array: Any, **options: Any) -> Path:
    np.save(path, array, **options)
    return path


def folder(path: Path, images: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(path / name)
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (GREY[:, 0], GREY[:, 0]),
        (np.asfortranarray(COLOUR)[::-1], COLOUR[::-1].transpose(0, 3, 1, 2)),
    ],
    ids=["n h w", "n 1 h w", "n h w 1", "n h w 3", "n 3 h w", "n d", "strided"],
)
def test_images_have_their_channels_first_wherever_these_stood(tmp_path: Path, given: Any, expected: Any) -> None:
    data = read_data(saved(tmp_path / "x.npy", given))
    assert torch.equal(data.values, torch.from_numpy(expected.copy()))
    assert data.levels == 256
    assert data.shape == expected.shape[1:]


def test_where_channels_may_stand_first_or_last_the_user_says_which(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", NUMBERS.normal(size=(2, 3, 4, 3)))
    with pytest.raises(ValueError, match=r"x.npy .*first or last.*channels='first'"):
        read_data(path)
    assert read_data(path, channels="first").shape == (3, 4, 3)
    assert read_data(path, channels="last").shape == (3, 3, 4)
    with pytest.raises(ValueError, match="channels: got 'middle'"):
        read_data(path, channels="middle")


def test_real_numbers_are_taken_as_they_are_and_levels_where_they_are_given(tmp_path: Path) -> None:
    x = NUMBERS.normal(size=(5, 3))
    data = read_data(saved(tmp_path / "x.npy", x))
    assert data.levels is None
    assert torch.equal(data.values, torch.from_numpy(x).float())
    levels = read_data(saved(tmp_path / "k.npy", np.round(3 * abs(x))), levels=17)
    assert (levels.levels, levels.values.dtype) == (17, torch.uint8)
    many = read_data(saved(tmp_path / "m.npy", np.array([[0], [999]])), levels=1000)
    assert many.values.flatten().tolist() == [0, 999]


def test_an_array_of_a_npz_file_is_the_only_one_or_named(tmp_path: Path) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    np.savez(one, a=GREY)
    np.savez_compressed(two, a=GREY, b=COLOUR)
    assert torch.equal(read_data(one).values, read_data(two, key="a").values)
    assert read_data(two, key="b").shape == (3, 5, 6)
    for key, text in ((None, "two.npz .*a, b; say which"), ("c", "it holds a, b, and no c")):
        with pytest.raises(ValueError, match=text):
            read_data(two, key=key)


def test_a_folder_gives_its_images_in_the_order_of_names_and_leaves_other_files_alone(tmp_path: Path) -> None:
    path = folder(tmp_path / "f", {"b.png": GREY[1], "a.bmp": GREY[0], "c.PNG": GREY[2]})
    (path / "notes.txt").write_text("none of these")
    assert torch.equal(read_data(path).values, torch.from_numpy(GREY[:3, None]))
    mixed = read_data(folder(path, {"d.png": COLOUR[3]})).values
    assert torch.equal(mixed[0], torch.from_numpy(GREY[0]).expand(3, -1, -1))
    assert torch.equal(mixed[3], torch.from_numpy(COLOUR[3]).permute(2, 0, 1))


def test_transparency_that_hides_nothing_is_dropped(tmp_path: Path) -> None:
    opaque = np.concatenate([COLOUR[0], np.full((5, 6, 1), 255, np.uint8)], 2)
    values = read_data(folder(tmp_path / "f", {"a.png": opaque})).values
    assert torch.equal(values[0], torch.from_numpy(COLOUR[0]).permute(2, 0, 1))


def test_photographs_are_read_as_they_are_shown_and_hidden_files_are_left_alone(tmp_path: Path) -> None:
    """Cameras store the sensor's pixels, and in EXIF how they are to be turned."""
    turned = Image.Exif()
    turned[0x112] = 6  # a quarter turn clockwise
    for ending in ("png", "tif"):
        path = folder(tmp_path / ending, {"b.png": COLOUR[0].transpose(1, 0, 2)})
        Image.fromarray(COLOUR[1]).save(path / f"a.{ending}", exif=turned)
        (path / "._b.png").write_bytes(b"what macOS writes beside it")
        values = read_data(path).values
        assert torch.equal(values[0], torch.from_numpy(np.rot90(COLOUR[1], -1).copy()).permute(2, 0, 1))
        assert len(values) == 2


def part_of_npy(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        whole = io.BytesIO()
        np.save(whole, NUMBERS.normal(size=(20, 3)))
        path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])

    return write


def part_of_npz(path: Path) -> None:
    whole = io.BytesIO()
    np.savez(whole, x=GREY)
    path.write_bytes(whole.getvalue()[:-40])


def with_header(text: str) -> Callable[[Path], None]:
    header = text.encode() + b" \n"
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    return lambda path: path.write_bytes(start + header + bytes(160)) and None


def with_value(value: float) -> Callable[[Path], None]:
    return lambda path: np.save(path.open("wb"), np.array([[1.0, 2.0], [3.0, value], [value, 4.0]]))


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: path.write_bytes(b""), "No data left|EOF"),
        (lambda path: path.write_text("1,2\n3,4\n"), "accepted is a whole .npy or .npz file"),
        (part_of_npy(0.02), "accepted is a whole"),
        (part_of_npy(0.5), "accepted is a whole"),
        (part_of_npy(0.99), "accepted is a whole"),
        (part_of_npz, "accepted is a whole"),
        (with_header("{" * 100), "accepted is a whole"),
        (with_header("{[]: 1}"), "accepted is a whole"),
        (
            with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1" + 25 * "0" + ", 2)}"),
            "accepted is a whole",
        ),
        (with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 2)}"), "accepted is a whole"),
        (with_value(math.nan), r"NaN or infinite values in 2 of 3 examples.*number 1"),
        (with_value(-math.inf), "NaN or infinite values"),
        (with_value(1e300), "finite numbers .of float32"),
        (lambda path: np.save(path.open("wb"), np.zeros((0, 3))), r"shape \(0, 3\)"),
        (lambda path: np.save(path.open("wb"), np.zeros(7)), r"shape \(7,\).*x\[:, None\]"),
        (lambda path: np.save(path.open("wb"), np.zeros((2, 2, 2, 2, 2))), r"shape \(2, 2, 2, 2, 2\)"),
        (lambda path: np.save(path.open("wb"), np.zeros((4, 2), complex)), "dtype complex128"),
        (lambda path: np.save(path.open("wb"), np.array([["a", "b"]])), "dtype <U1"),
        (lambda path: np.save(path.open("wb"), np.zeros((4, 2), int)), "dtype int64; .*levels"),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_named_with_the_reason(
    tmp_path: Path, write: Callable[[Path], Any], text: str
) -> None:
    path = tmp_path / "mine.npy"
    write(path)
    with pytest.raises(ValueError, match=f"data: got .*mine.npy.*({text})"):
        read_data(path)


def test_values_that_are_no_levels_are_named(tmp_path: Path) -> None:
    for values, text in (([[0.5]], "0.5"), ([[17]], "17"), ([[-1]], "-1"), ([[math.nan]], "nan")):
        with pytest.raises(ValueError, match=rf"x.npy with values from {text}.*0 .. 16 for levels=17"):
            read_data(saved(tmp_path / "x.npy", np.array(values)), levels=17)
    with pytest.raises(ValueError, match="levels: got 1"):
        read_data(tmp_path / "x.npy", levels=1)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    array = np.empty((1, 1), dtype=object)
    array[0, 0] = Payload()
    objects = saved(tmp_path / "objects.npy", array, allow_pickle=True)
    pickled = tmp_path / "pickled.npy"
    pickled.write_bytes(pickle.dumps(Payload()))
    archive = tmp_path / "archive.npz"
    np.savez(archive, x=array)
    for path in (objects, pickled, archive):
        with pytest.raises(ValueError, match=path.name):
            read_data(path)
    assert not mark.exists()


def test_an_array_alone_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x.npy .*one array.* none is a\)"):
        read_data(saved(tmp_path / "x.npy", GREY), key="a")


def several(path: Path) -> None:
    first, second = map(Image.fromarray, GREY[:2])
    first.save(path / "b.tif", save_all=True, append_images=[second])


def cut_short(path: Path) -> None:
    whole = folder(path, {"b.png": COLOUR[0]}) / "b.png"
    whole.write_bytes(whole.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("fill", "text"),
    [
        (lambda path: None, "without an image"),
        (
            lambda path: folder(path, {"b.png": GREY[0], "c.png": GREY[1, :4]}),
            "c.png of 6x4 pixels beside b.png of 6x5",
        ),
        (lambda path: (path / "b.png").write_bytes(b""), r"b.png \("),
        (lambda path: (path / "b.jpg").write_text("text"), r"b.jpg \("),
        (cut_short, r"b.png \("),
        (several, r"b.tif \(it holds 2 pictures"),
        (lambda path: folder(path, {"b.png": np.zeros((2, 2, 4), np.uint8)}), "b.png .*transparent in places"),
        (lambda path: folder(path, {"b.png": np.zeros((2, 2), np.uint16)}), "b.png .*of mode I;16, not of 8 bits"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_named_with_the_file(
    tmp_path: Path, fill: Callable[[Path], Any], text: str
) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    fill(path)
    with pytest.raises(ValueError, match=f"data: got .*mine.*{text}"):
        read_data(path)


def test_a_path_where_nothing_is_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data: got .*missing.npy"):
        read_data(tmp_path / "missing.npy")


def test_vectors_are_scaled_to_mean_0_and_variance_1_and_back() -> None:
    y = torch.tensor([1e-3, 5.0, 3e4]) * torch.randn(500, 3) + torch.tensor([7.0, 0.0, -1e6])
    scaling = Scaling.fit(Data(y, None))
    x = scaling.to_model(y)
    assert torch.allclose(x.double().mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(x.double().std(0, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(scaling.to_data(x), y, rtol=1e-6)


@pytest.mark.parametrize("shape", [(500, 2), (500, 1, 2, 2)])
def test_scaling_moves_log_densities_by_its_volume(shape: tuple[int, ...]) -> None:
    """Of a normal: that of y, and that of x, whose mean and deviation follow."""
    y = 3 + 0.2 * torch.randn(shape, dtype=torch.float64)
    scaling = Scaling.fit(Data(y, None))
    shift, scale = (torch.tensor(values, dtype=torch.float64) for values in (scaling.shift, scaling.scale))
    mean, deviation = torch.tensor([3.0, 0.2], dtype=torch.float64)
    of_y = torch.distributions.Normal(mean, deviation).log_prob(y).flatten(1).sum(1)
    of_x = torch.distributions.Normal((mean - shift) / scale, deviation / scale).log_prob((y - shift) / scale)
    moved = of_x.flatten(1).sum(1) - scaling.log_volume(y[0].numel())
    assert torch.allclose(moved, of_y, rtol=1e-12, atol=1e-12)


def test_real_images_are_scaled_to_the_same_ends_at_every_pixel() -> None:
    y = torch.rand(50, 3, 4, 4) * torch.rand(4, 4) * 7 - 2
    x = Scaling.fit(Data(y, None)).to_model(y)
    assert (float(x.min()), float(x.max())) == (-1, 1)
    assert torch.allclose((x - x[0]) * (y[1] - y[0]), (y - y[0]) * (x[1] - x[0]), atol=1e-5)


def test_data_that_do_not_vary_have_no_density_and_are_refused() -> None:
    still = torch.cat([torch.randn(9, 2), torch.full((9, 1), 0.1)], 1)
    with pytest.raises(ValueError, match="component 2 in all examples"):
        Scaling.fit(Data(still, None))
    for levels in (None, 256):
        with pytest.raises(ValueError, match="data: got images whose pixels are all 3"):
            Scaling.fit(Data(torch.full((9, 1, 2, 2), 3.0), levels))


def test_vectors_that_float32_can_hardly_tell_apart_are_not_called_the_same() -> None:
    with pytest.raises(ValueError, match=r"component 1 varies by less than a millionth.*subtract the mean"):
        Scaling.fit(Data(torch.randn(9, 2) + torch.tensor([0.0, 2e6]), None))


@pytest.mark.parametrize("levels", [2, 256, 1000])
def test_levels_come_back_from_the_model_scale(levels: int) -> None:
    k = torch.arange(levels, dtype=torch.int32)[:, None]
    scaling = Scaling.fit(Data(k, levels))
    x = scaling.to_model(k, seed=0)
    assert bool((x.abs() <= 1).all())
    assert torch.equal(scaling.to_data(x).int(), k)
    assert scaling.log_volume(1) == 0
