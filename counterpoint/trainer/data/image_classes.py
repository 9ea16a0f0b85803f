"""Folders of classes: which image files they hold, and what is left out of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from counterpoint.core.errors import DataError
from counterpoint.trainer.data.image_files import suffixes

__all__ = ["Classes", "list_classes"]

_SHOWN = 5


@dataclass(frozen=True)
class Classes:
    """The image files of each class, sorted by name, and how many entries were left out for each reason."""

    files: dict[str, list[Path]]
    left_out: Counter[str]

    @property
    def paths(self) -> list[Path]:
        """Every file, class by class."""
        return [path for files in self.files.values() for path in files]

    @property
    def labels(self) -> list[int]:
        """The index of the class of every file."""
        return [label for label, files in enumerate(self.files.values()) for _ in files]

    def without(self, broken: Collection[Path], key: str) -> Classes:
        """Leave files out; raises ``DataError`` if nothing is left of a class."""
        files = {name: [path for path in paths if path not in broken] for name, paths in self.files.items()}
        if empty := [name for name, paths in files.items() if not paths]:
            raise DataError(
                f"data.{key}: of these classes every image is broken: {', '.join(map(repr, empty))}; replace some of "
                "their images, or remove their folders"
            )
        return Classes(files, self.left_out)

    def __str__(self) -> str:
        """Say what was left out; nothing if all was read."""
        count = self.left_out.total()
        listed = [f"{number} {reason}" for reason, number in self.left_out.most_common(_SHOWN)]
        more = [f"{len(self.left_out) - _SHOWN} further reasons"] if len(self.left_out) > _SHOWN else []
        return (
            f"left out {count} {'entry' if count == 1 else 'entries'}: {', '.join([*listed, *more])}" if count else ""
        )


def list_classes(folder: Path, key: str) -> Classes:
    """List the image files of each class folder and of the folders below it, sorted by name.

    Left out, and counted, are hidden entries, files of no format that Pillow reads, files beside the class folders, and
    links to a folder that holds them. ``key`` is the setting that gave the folder. Raises ``DataError`` if the folder
    is missing, cannot be read, has no class folder, or a class folder holds no image.
    """
    try:
        return _listed(folder, key)
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"data.{key}: {str(folder)!r} cannot be read: {reason}; give a folder that can be read, of one folder of "
            "images for each class"
        ) from error


def _listed(folder: Path, key: str) -> Classes:
    if not folder.is_dir():
        with suppress(FileNotFoundError):
            folder.stat()  # which says why a path is none
        there = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"data.{key}: {str(folder)!r} {there}; it must hold one folder of images for each class")
    left_out: Counter[str] = Counter()
    names = []
    for entry in _entries(folder, left_out):
        if entry.is_dir():
            names.append(entry.name)
        else:
            left_out["beside the class folders"] += 1
    if not names:
        raise DataError(f"data.{key}: {str(folder)!r} holds no class; make one folder of images for each class in it")
    above = frozenset({os.path.realpath(folder)})
    classes = Classes({name: list(_images(folder / name, above, left_out)) for name in names}, left_out)
    if empty := [name for name, files in classes.files.items() if not files]:
        raise DataError(
            f"data.{key}: in {str(folder)!r} these classes hold no image that Pillow reads: "
            f"{', '.join(map(repr, empty))}; add images to each or remove its folder{_aside(classes)}"
        )
    return classes


def _aside(classes: Classes) -> str:
    return f" ({classes})" if str(classes) else ""


def _entries(folder: Path, left_out: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Give the entries of a folder that are not hidden, sorted by name."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        else:
            yield entry


def _images(folder: Path, above: frozenset[str], left_out: Counter[str]) -> Iterator[Path]:
    """Give the image files in a folder and below it; ``above`` are the folders that hold it."""
    here = os.path.realpath(folder)
    if here in above:
        left_out["links to a folder above"] += 1
        return
    for entry in _entries(folder, left_out):
        suffix = Path(entry.name).suffix.lower()
        if entry.is_dir():
            yield from _images(folder / entry.name, above | {here}, left_out)
        elif suffix not in suffixes():
            left_out[f"of no format that Pillow reads ({suffix or 'no suffix'})"] += 1
        elif entry.is_file() or not os.path.exists(entry.path):  # a broken link is an image that cannot be read
            yield folder / entry.name
        else:
            left_out["of no regular file"] += 1
