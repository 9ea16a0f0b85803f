"""Images of every mode and format that Pillow writes are read right, or their file is named."""

from __future__ import annotations

import colorsys
import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from counterpoint import DataError
from counterpoint.trainer.data import ImageFolder
from counterpoint.trainer.data.image_classes import list_classes
from counterpoint.trainer.data.image_files import Reading, _laid_over, find_broken, formats, open_image
from tests.trainer.support import write_images

pytestmark = pytest.mark.kind("15")

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"]
Image.init()
WRITTEN = sorted((Image.SAVE.keys() - {"PDF", "PALM", "EPS", "HDF5", "GRIB", "BUFR", "WMF"}) - {"AVIF"})


def drawn(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Make an image of random numbers over the whole range of its mode."""
    rng = np.random.Generator(np.random.Philox(seed))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.int32))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(rng.random((height, width), dtype=np.float32))
    if mode == "P":
        image = Image.frombytes("P", (width, height), rng.bytes(width * height))
        image.putpalette(rng.bytes(768))
        return image
    channels = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[..., 0] > 127)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def colours_of(image: Image.Image, raw: np.ndarray, white: float | None) -> np.ndarray:
    """Compute the RGB colours of the raw numbers of an image that has no palette, in float64."""
    if image.mode in ("RGB", "RGBA"):
        return raw[..., :3]
    if image.mode == "CMYK":
        return (255 - raw[..., :3]) * (255 - raw[..., 3:]) / 255
    if image.mode == "YCbCr":
        y, cb, cr = raw[..., 0], raw[..., 1] - 128, raw[..., 2] - 128
        return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1).clip(0, 255)
    if image.mode == "HSV":
        return 255 * np.apply_along_axis(lambda hsv: colorsys.hsv_to_rgb(*hsv), -1, raw / 255)
    tops = {"1": 1, "L": 255, "LA": 255, "F": white or 1.0}
    grey = raw[..., 0] if image.mode == "LA" else raw
    return np.repeat(grey[..., None] * 255 / tops.get(image.mode, white or 65535), 3, -1)


def reference(image: Image.Image, background: tuple[int, int, int], white: float | None) -> np.ndarray:
    """Compute an image over a background from its raw numbers, in float64."""
    raw, clear = np.asarray(image).astype(np.float64), image.info.get("transparency")
    opacity = np.ones(raw.shape[:2])
    if image.mode == "P":
        table = np.array(image.getpalette("RGBA"), dtype=np.float64).reshape(-1, 4)
        if isinstance(clear, int):
            table[clear, 3] = 0
        elif isinstance(clear, bytes):
            table[: len(clear), 3] = list(clear)
        colours, opacity = table[raw.astype(int), :3], table[raw.astype(int), 3] / 255
    else:
        colours = colours_of(image, raw, white)
    if image.mode in ("LA", "RGBA"):
        opacity = raw[..., -1] / 255
    elif image.mode == "L" and clear is not None:
        opacity = (raw != clear).astype(float)
    return colours * opacity[..., None] + np.array(background) * (1 - opacity[..., None])


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    form=st.sampled_from(WRITTEN),
    width=st.integers(1, 17),
    height=st.integers(1, 17),
    seed=st.integers(0, 2**16),
    background=st.sampled_from([(255, 255, 255), (0, 0, 0), (10, 200, 77)]),
    white=st.sampled_from([None, 65535.0]),
)
def test_every_mode_and_format(
    mode: str,
    form: str,
    width: int,
    height: int,
    seed: int,
    background: tuple[int, int, int],
    white: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    buffer = io.BytesIO()
    warnings.simplefilter("ignore", DeprecationWarning)  # Pillow's, of formats that it will drop
    try:
        drawn(mode, width, height, seed).save(buffer, form)
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        assume(False)  # Pillow does not write this
    path = tmp_path_factory.mktemp("image") / "image"
    path.write_bytes(buffer.getvalue())
    reading = Reading(background, white)
    try:
        with Image.open(path) as raw:
            raw.load()
            is_known = raw.format in ("PNG", "PPM") or raw.mode != "I"
            wanted = reference(raw, background, white)
    except (OSError, ValueError, SyntaxError):  # Pillow does not read what it has written
        with pytest.raises(DataError, match="image"):
            open_image(path, reading)
        assert path in find_broken([path], reading)
        return
    if (white is None and not is_known) or wanted.max() > 255.5:
        with pytest.raises(DataError, match=r"image: it holds .*set data.white"):
            open_image(path, reading)
        assert "data.white" in find_broken([path], reading)[path]
        return
    found = np.asarray(open_image(path, reading)).astype(np.float64)
    assert found.shape == (raw.height, raw.width, 3)
    assert np.abs(found - wanted).max() <= (2.5 if raw.mode in ("YCbCr", "HSV") else 1.01)
    assert find_broken([path], reading) == {}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_not_white(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(np.array([[0, 257, 25700, 65535]], dtype=np.uint16)).save(path)
    assert np.asarray(open_image(path, Reading()))[0, :, 0].tolist() == [0, 1, 100, 255]
    with pytest.raises(DataError, match=r"numbers from 0 to 65535, and black is 0 and white 4095: set data.white"):
        open_image(path, Reading(white=4095))


def test_numbers_of_32_bits_need_a_white(tmp_path: Path) -> None:
    integers, floats, low = (tmp_path / name for name in ("integers.tif", "floats.tif", "low.tif"))
    Image.fromarray(np.array([[0, 50, 200]], dtype=np.int32)).save(integers)
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(floats)
    Image.fromarray(np.array([[-0.1, 0.5, np.nan]], dtype=np.float32)).save(low)
    with pytest.raises(DataError, match=r"integers.tif: it holds 32-bit integers from 0 to 200.*set data.white"):
        open_image(integers, Reading())
    assert np.asarray(open_image(integers, Reading(white=200)))[0, :, 1].tolist() == [0, 64, 255]
    assert np.asarray(open_image(floats, Reading()))[0, :, 1].tolist() == [0, 128, 255]
    assert list(find_broken([integers, floats, low], Reading())) == [integers, low]


def test_numbers_below_black_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "low.tif"
    Image.fromarray(np.array([[-0.1, 0.5]], dtype=np.float32)).save(path)
    with pytest.raises(DataError, match=r"numbers from -0\.1 to 0\.5, and black is 0 and white 1"):
        open_image(path, Reading())


def test_numbers_of_12_bits_range_to_4095(tmp_path: Path) -> None:
    tags = [(256, 4, 2), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 1)]
    tags += [(279, 4, 3)]
    entries = b"".join(
        struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, value, *([0] * (kind == 3)))
        for tag, kind, value in tags
    )
    pixels = bytes([0xFF, 0xF0, 0x10, 0])  # 4095 and 16
    path = tmp_path / "twelve.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 12) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4))
    assert np.asarray(open_image(path, Reading()))[0, :, 0].tolist() == [255, 1]


def test_colours_in_lab_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.tif"
    Image.new("LAB", (3, 3)).save(path)
    with pytest.raises(DataError, match=r"lab.tif: its colours are in LAB"):
        open_image(path, Reading())
    assert "LAB" in find_broken([path], Reading())[path]


def test_a_palette_with_opacities_is_laid_over_the_background() -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([200, 100, 0, 51], "RGBA")
    assert _laid_over(image, (0, 0, 255)).convert("RGB").getpixel((0, 0)) == (40, 20, 204)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_damaged_exif_data_is_found_at_the_start(exif: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (3, 3)).save(path, exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        broken = find_broken([path], Reading())
        try:
            open_image(path, Reading())
            is_read = True
        except DataError:
            is_read = False
    assert is_read is not bool(broken)


def test_white_is_zero_in_a_tiff_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "negative.tif"
    Image.fromarray(np.array([[0, 65535, 257]], dtype=np.uint16)).save(path, tiffinfo={262: 0})
    with Image.open(path) as raw:
        is_inverted = raw.tag_v2[262] == 0
    found = np.asarray(open_image(path, Reading()))[0, :, 0].tolist()
    assert found == ([255, 0, 254] if is_inverted else [0, 255, 1])


def test_a_transparent_number_of_a_16_bit_image(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.fromarray(np.array([[0, 25700, 65535]], dtype=np.uint16)).save(path, transparency=25700)
    assert np.asarray(open_image(path, Reading(background=(7, 8, 9))))[0].tolist() == [[0] * 3, [7, 8, 9], [255] * 3]


# Where the pixel that is stored first, at the left top, and the one right of it are shown, by the EXIF standard.
CORNERS = {
    1: ("left top", "right"),
    2: ("right top", "left"),
    3: ("right bottom", "left"),
    4: ("left bottom", "right"),
    5: ("left top", "down"),
    6: ("right top", "down"),
    7: ("right bottom", "up"),
    8: ("left bottom", "up"),
}
MOVES = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = np.zeros((16, 32), dtype=np.uint8)
    stored[:8, :8], stored[:8, 8:16] = 255, 128
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    lossless = {"quality": 100} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(path, exif=exif, **lossless)
    shown = np.asarray(open_image(path, Reading()))[..., 0].astype(int)
    corner, direction = CORNERS[orientation]
    assert shown.shape == ((32, 16) if direction in ("up", "down") else (16, 32))
    row, column = (0 if "top" in corner else shown.shape[0] - 1), (0 if "left" in corner else shown.shape[1] - 1)
    down, right = MOVES[direction]
    assert shown[row, column] > 250
    assert abs(shown[row + 8 * down, column + 8 * right] - 128) < 6
    assert (shown > 60).sum() in range(120, 140)
    assert find_broken([path], Reading()) == {}


def test_an_orientation_that_is_none_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.new("RGB", (4, 2), (1, 2, 3)).save(tmp_path / "a.png", exif=exif)
    assert open_image(tmp_path / "a.png", Reading()).size == (4, 2)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    form=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "TGA", "PPM", "JPEG2000"]),
    mode=st.sampled_from(["L", "RGB"]),
    at=st.floats(0, 1, exclude_max=True),
    change=st.sampled_from(["cut", "flip", "zero"]),
    seed=st.integers(0, 99),
)
def test_a_damaged_file_is_read_or_named(
    form: str, mode: str, at: float, change: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And what the look at the start lets pass can be read in training."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    drawn(mode, 24, 16, seed).save(buffer, form, **({"exif": exif} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
    data = bytearray(buffer.getvalue())
    place = int(at * len(data))
    if change == "cut":
        data = data[:place]
    elif change == "flip":
        data[place] ^= 1 << seed % 8
    else:
        data[place : place + 16] = bytes(len(data[place : place + 16]))
    path = tmp_path_factory.mktemp("damaged") / "image"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of metadata that it passes over
        is_broken = path in find_broken([path], Reading())
        said = ""
        try:
            assert open_image(path, Reading()).mode == "RGB"
        except DataError as error:
            said = str(error)
    assert not said or said.startswith(f"data.root: {path}: ")
    assert is_broken or not said or form == "JPEG"  # of which an eighth is decoded, which does not show all damage


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "TIFF", "gif", "jp2", "ppm", "tga", "PNG"])
def test_every_format_is_listed(suffix: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    Image.new("RGB", (5, 5), (10, 20, 30)).save(tmp_path / "train" / "class0" / f"zzz.{suffix}", lossless=True)
    data = ImageFolder(root=str(tmp_path), size=5, augment="none", batch_size=2).build()
    assert len(data.train) == 9
    assert data.train[4][0][:, 2, 2].tolist() == [10, 20, 30]
    assert data.train[4][1] == 0
    assert data.notes == ()


def test_folders_below_a_class_are_read_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write_images(tmp_path)
    folder = tmp_path / "train" / "class1"
    (folder / "more" / "deep").mkdir(parents=True)
    for place in (folder / "more" / "deep" / "x.png", folder / "more" / "a.bmp"):
        Image.new("L", (5, 5)).save(place)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    for name in (".hidden.png", "notes.txt", "more.txt", "README"):
        (folder / name).write_text("x")
    (tmp_path / "train" / "labels.csv").write_text("x")
    found = list_classes(tmp_path / "train", "train")
    assert [path.name for path in found.files["class1"]] == ["0.jpg", "1.png", "2.jpg", "3.png", "a.bmp", "x.png"]
    assert found.left_out == {
        "hidden": 1,
        "beside the class folders": 1,
        "links to a folder above": 1,
        "of no regular file": 1,
        "of no format that Pillow reads (.txt)": 2,
        "of no format that Pillow reads (no suffix)": 1,
    }
    (note,) = ImageFolder(root=str(tmp_path), size=4).build().notes
    assert note.startswith("data.train: left out 7 entries: 2 of no format that Pillow reads (.txt), 1 ")


def test_broken_images_are_skipped_if_asked(tmp_path: Path) -> None:
    write_images(tmp_path, classes=3)
    for name in ("class0/0.jpg", "class2/3.png"):
        (tmp_path / "train" / name).write_text("no image")
    skipping = ImageFolder(root=str(tmp_path), size=4, broken="skip")
    data = skipping.build()
    data.verify()
    assert [data.train[index][1] for index in range(len(data.train))] == [0] * 3 + [1] * 4 + [2] * 3
    assert len(data.evaluation) == 12
    (note,) = data.notes
    assert note.startswith("data.root: skipped 2 broken: ")
    assert "class0/0.jpg: not an image that Pillow can read" in note
    for path in (tmp_path / "val" / "class1").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"data.evaluation: of these classes every image is broken: 'class1'"):
        skipping.build()


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800"])
@pytest.mark.kind("27")
def test_a_root_that_is_no_path_is_named(name: str) -> None:
    with pytest.raises(DataError, match=r"data.train: .* cannot be read: "):
        list_classes(Path(name), "train")


def test_formats_that_other_programs_decode_are_left_to_them() -> None:
    assert not {"EPS", "WMF", "HDF5"} & {*formats()}
    assert {"PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"} <= {*formats()}
