from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

import counterpoint as cp
from counterpoint import DataError, Rng
from counterpoint.trainer.data import Digits, ImageFolder
from counterpoint.trainer.data.dataset import DataSpec, RandomDataset
from counterpoint.trainer.data.image_crops import centre_box, random_box
from tests.trainer.support import write_images

FIRST_TRAIN = [3, 9, 1, 3, 1, 9, 4, 4, 2, 8, 3, 5]
FIRST_EVALUATION = [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def _stack(data: object) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*(data[index] for index in range(len(data))), strict=True)
    return torch.stack(inputs), torch.as_tensor(targets)


def test_digits_are_split_once_and_for_all() -> None:
    data = Digits().build()
    (train, train_labels), (evaluation, evaluation_labels) = _stack(data.train), _stack(data.evaluation)
    assert (len(train), len(evaluation)) == (1437, 360)
    # The first images of each part, found by running the split: a change of them changes every reported accuracy.
    assert train_labels[:12].tolist() == FIRST_TRAIN
    assert evaluation_labels[:12].tolist() == FIRST_EVALUATION

    both = torch.cat([train, evaluation]) * 0.37612 + 0.30538
    source = torch.from_numpy(load_digits().images).float()[:, None] / 16
    assert sorted(map(tuple, both.mul(16).round().int().flatten(1).tolist())) == sorted(
        map(tuple, source.mul(16).round().int().flatten(1).tolist())
    )


def test_digits_are_stratified() -> None:
    data = Digits().build()
    train, evaluation = _stack(data.train)[1].bincount(), _stack(data.evaluation)[1].bincount()
    shares = evaluation / (train + evaluation)
    assert shares.sub(360 / 1797).abs().max() < 0.005


def test_digits_are_normalised_by_what_the_training_pixels_measure() -> None:
    inputs, _ = _stack(Digits().build().train)
    assert inputs.dtype == torch.float32
    assert inputs.double().mean().item() == pytest.approx(0, abs=2e-5)
    assert inputs.double().std(unbiased=False).item() == pytest.approx(1, abs=2e-5)


def test_digits_spec() -> None:
    spec = Digits().build().spec
    assert (spec.task, spec.inputs, spec.input_shape, spec.num_classes) == ("multiclass", "normalized", (1, 8, 8), 10)
    assert spec.classes == tuple("0123456789")


def test_image_folder_lists_classes_by_name(tmp_path: Path) -> None:
    write_images(tmp_path, classes=3)
    data = ImageFolder(root=str(tmp_path), size=8).build()
    assert (data.spec.num_classes, data.spec.classes) == (3, ("class0", "class1", "class2"))
    assert data.spec.input_shape == (3, 8, 8)
    assert [data.train[index][1] for index in range(12)] == [0] * 4 + [1] * 4 + [2] * 4


def test_image_folder_gives_bytes_and_says_how_to_normalise_them(tmp_path: Path) -> None:
    write_images(tmp_path)
    for augment in ("resized_crop", "shift", "none"):
        settings = {"root": str(tmp_path), "size": 8, "augment": augment, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 1]}
        data = ImageFolder.model_validate(settings).build()
        assert (data.spec.inputs, data.spec.mean, data.spec.std) == ("bytes", (0.1, 0.2, 0.3), (0.5, 0.4, 1.0))
        for part in (data.train, data.evaluation):
            for index in range(len(part)):
                image = part[index][0]
                assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 8, 8), True)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), ()), ((), (0.5,)), ((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))])
def test_mean_and_std_are_stated_together(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match=re.escape(f"mean is stated as {mean} and the std as {std}; state as many")):
        DataSpec("multiclass", "bytes", (3, 8, 8), 2, mean=mean, std=std)


def test_evaluation_images_are_the_scaled_middle(tmp_path: Path) -> None:
    write_images(tmp_path, size=(20, 10))
    settings = {"root": str(tmp_path), "size": 8, "evaluation_crop": 0.8}
    inputs, label = ImageFolder.model_validate(settings).build().evaluation[1]

    path = tmp_path / "val" / "class0" / "1.png"
    pixels = np.asarray(Image.open(path))[1:9, 6:14]  # the middle 8x8: nothing is scaled
    assert label == 0
    assert np.array_equal(inputs.permute(1, 2, 0).numpy(), pixels)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    write_images(tmp_path)
    Image.new("L", (9, 9), 128).save(tmp_path / "train" / "class0" / "grey.png")
    Image.new("RGBA", (9, 9), (255, 0, 0, 51)).save(tmp_path / "train" / "class0" / "clear.png")
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "train" / "class0" / "palette.png", transparency=b"\x00\x00")
    data = ImageFolder(root=str(tmp_path), size=4, augment="none", background=[0.2, 1, 0]).build()
    by_name = {path.name: data.train[index][0] for index, path in enumerate(data.train._paths)}
    assert by_name["grey.png"].unique().tolist() == [128]
    assert by_name["clear.png"][:, 0, 0].tolist() == [round(255 * 0.2 + 51 * 0.8), 204, 0]
    assert by_name["palette.png"][:, 0, 0].tolist() == [51, 255, 0]


@pytest.mark.parametrize("augment", ["resized_crop", "shift"])
def test_random_images_depend_on_the_generator_alone(tmp_path: Path, augment: str) -> None:
    write_images(tmp_path)
    data = ImageFolder.model_validate({"root": str(tmp_path), "size": 8, "augment": augment}).build().train
    assert isinstance(data, RandomDataset)
    first = data.example(0, Rng(1, "example/0", 0))[0]
    assert torch.equal(first, data.example(0, Rng(1, "example/0", 0))[0])
    others = [data.example(0, Rng(1, "example/0", epoch))[0] for epoch in range(1, 9)]
    assert any(not torch.equal(first, other) for other in others)


def test_shift_moves_the_image_and_fills_with_the_mean(tmp_path: Path) -> None:
    write_images(tmp_path, size=(8, 8))
    mean = [0.1, 0.499, 1.2]  # 25.5 and 127.245 of 255, and more than there is
    settings = {"root": str(tmp_path), "size": 8, "augment": "shift", "padding": 2, "flip": 0.0, "mean": mean}
    data = ImageFolder.model_validate(settings).build().train
    plain = ImageFolder.model_validate({**settings, "augment": "none"}).build().train[1][0]
    padded = torch.tensor([26, 127, 255], dtype=torch.uint8).view(3, 1, 1).repeat(1, 12, 12)
    padded[:, 2:10, 2:10] = plain
    windows = [padded[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
    seen = set()
    for epoch in range(200):
        shifted = data.example(1, Rng(0, "example/1", epoch))[0]
        seen.add(next(number for number, window in enumerate(windows) if torch.equal(window, shifted)))
    assert seen == set(range(25))


def test_flips_come_with_their_probability(tmp_path: Path) -> None:
    write_images(tmp_path, size=(8, 8))
    settings = {"root": str(tmp_path), "size": 8, "augment": "shift", "padding": 0, "flip": 0.25}
    data = ImageFolder.model_validate(settings).build().train
    plain = data.example(1, Rng(0, "example/1", 0))[0]
    same = [torch.equal(plain, data.example(1, Rng(0, "example/1", epoch))[0]) for epoch in range(400)]
    assert 0.17 < min(sum(same), 400 - sum(same)) / 400 < 0.33


def test_without_augmentation_nothing_is_flipped(tmp_path: Path) -> None:
    write_images(tmp_path, size=(8, 8))
    settings = {"root": str(tmp_path), "size": 8, "augment": "none", "flip": 1.0}
    data = ImageFolder.model_validate(settings).build().train
    pixels = np.asarray(Image.open(tmp_path / "train" / "class0" / "1.png"))
    assert np.array_equal(data.example(1, Rng(0, "example/1", 0))[0].permute(1, 2, 0).numpy(), pixels)


def test_random_boxes_follow_scale_and_ratio() -> None:
    boxes = np.array([random_box(100, 100, (0.2, 0.5), (0.5, 2.0), Rng(0, "box", n)) for n in range(500)])
    left, top, right, bottom = boxes.T
    shares, ratios = (right - left) * (bottom - top) / 1e4, (right - left) / (bottom - top)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 100 + 1e-9).all()
    assert (bottom <= 100 + 1e-9).all()
    assert 0.2 <= shares.min() < 0.22 < 0.48 < shares.max() <= 0.5
    assert shares.mean() == pytest.approx(0.35, abs=0.02)
    assert 0.5 <= ratios.min() < 0.55
    assert 1.8 < ratios.max() <= 2.0
    assert np.log(ratios).mean() == pytest.approx(0, abs=0.06)


@pytest.mark.kind("30")
@pytest.mark.parametrize(("low", "high"), [(2.0, 4.0), (0.25, 0.5)])
def test_the_ratio_is_that_of_width_to_height(low: float, high: float) -> None:
    for number in range(50):
        left, top, right, bottom = random_box(300, 200, (0.1, 0.2), (low, high), Rng(0, "box", number))
        assert low <= (right - left) / (bottom - top) <= high
        assert 0.1 <= (right - left) * (bottom - top) / 60_000 <= 0.2


@pytest.mark.kind("30")
def test_width_and_height_are_not_swapped() -> None:
    """A part of the whole height of a wide image fits, and the middle of a wide image is as high as the image."""
    assert centre_box(100, 10, 0.5) == (47.5, 2.5, 52.5, 7.5)
    left, top, right, bottom = random_box(100, 10, (0.9, 1.0), (10.0, 10.0), Rng(0, "box"))
    assert right - left > 90
    assert 9 < bottom - top <= 10
    assert left >= 0 <= top


def test_a_box_that_never_fits_is_the_middle() -> None:
    assert random_box(100, 10, (1.0, 1.0), (1.0, 1.0), Rng(0, "box")) == (45.0, 0.0, 55.0, 10.0)


def _missing_root(root: Path) -> str:
    return "data.train: .*train' does not exist"


def _file_as_root(root: Path) -> str:
    root.mkdir()
    (root / "train").write_text("x")
    return "train' is not a folder"


def _missing_evaluation(root: Path) -> str:
    write_images(root)
    (root / "val").rename(root / "test")
    return "data.evaluation: .*val' does not exist"


def _no_class(root: Path) -> str:
    (root / "train").mkdir(parents=True)
    (root / "train" / ".hidden").mkdir()
    return "holds no class"


def _empty_class(root: Path) -> str:
    write_images(root)
    (root / "train" / "void").mkdir()
    (root / "train" / "void" / "notes.txt").write_text("x")
    return "these classes hold no image that Pillow reads: 'void'.*1 of no format that Pillow reads \\(.txt\\)"


def _differing_classes(root: Path) -> str:
    write_images(root)
    (root / "val" / "class1").rename(root / "val" / "clas1")
    return "only one of 'train' and 'val': 'clas1', 'class1'"


def _text_as_image(root: Path) -> str:
    write_images(root)
    (root / "train" / "class0" / "2.jpg").write_text("no image")
    return r"(?s)1 image is broken.*class0/2\.jpg: not an image"


def _empty_image(root: Path) -> str:
    write_images(root)
    (root / "val" / "class1" / "1.png").write_bytes(b"")
    return r"(?s)1 image is broken.*val/class1/1\.png"


def _cut_png(root: Path) -> str:
    write_images(root)
    _cut(root / "train" / "class1" / "1.png")
    return r"(?s)1 image is broken.*train/class1/1\.png"


def _cut_jpeg(root: Path) -> str:
    write_images(root, size=(64, 64))
    _cut(root / "train" / "class1" / "2.jpg")
    return r"(?s)1 image is broken.*train/class1/2\.jpg"


def _flipped_png(root: Path) -> str:
    write_images(root)
    path = root / "train" / "class1" / "1.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return r"(?s)1 image is broken.*train/class1/1\.png"


def _several_broken(root: Path) -> str:
    write_images(root, count=8)
    for number in range(7):
        (root / "train" / "class0" / f"{number}.{'png' if number % 2 else 'jpg'}").write_text("no image")
    return r"(?s)7 images are broken.*class0/0\.jpg.*and 2 more"


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    "spoil",
    [
        _missing_root,
        _file_as_root,
        _missing_evaluation,
        _no_class,
        _empty_class,
        _differing_classes,
        _text_as_image,
        _empty_image,
        _cut_png,
        _cut_jpeg,
        _flipped_png,
        _several_broken,
    ],
)
def test_what_is_wrong_with_a_folder_is_found_before_training(tmp_path: Path, spoil: object) -> None:
    root = tmp_path / "images"
    message = spoil(root)
    with pytest.raises(DataError, match=message):
        ImageFolder(root=str(root), size=8).build().verify()


def test_files_are_read_through_once_and_only_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        "counterpoint.trainer.data.image_folder.refuse_broken", lambda paths, reading: read.extend(paths)
    )
    write_images(tmp_path)
    config = {
        "task": "multiclass",
        "data": {"name": "image_folder", "root": str(tmp_path), "size": 8, "batch_size": 4},
        "model": {"name": "mlp", "hidden": 4},
        "max_duration": "1ba",
    }
    trainer = cp.Trainer(config)
    assert read == []
    trainer.data.verify()
    trainer.fit()
    assert sorted(read) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_an_image_that_breaks_later_is_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    data = ImageFolder(root=str(tmp_path), size=8).build()
    (tmp_path / "train" / "class0" / "0.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"class0/0\.jpg: not an image"):
        data.train[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": [0.5, 0.1]},
        {"scale": [0.5, 1.5]},
        {"ratio": [2.0, 1.0]},
        {"std": [0, 1, 1]},
        {"size": 0},
        {"flip": 2.0},
    ],
)
def test_image_folder_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ImageFolder.model_validate({"root": "images", **settings})
