"""Format versions and checksums of the files of a run: what is damaged is found, and named in words."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

from torch import Tensor, uint8

from counterpoint.core.errors import RunDirectoryError

__all__ = [
    "FORMAT",
    "GONE",
    "DamagedError",
    "OtherFormatError",
    "file_digest",
    "read_bytes",
    "seal",
    "seal_text",
    "tensors_digest",
    "text_digest",
    "unseal",
    "unseal_text",
]

FORMAT = 1
"""The version of the layout of all files of a run."""
_CHECKSUM = "checksum"
_TITLE = "# Counterpoint, format {}, sha256 of what follows: {}\n"
GONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""What the system answers where a file is missing, or is none; all else is no damage of the file."""


class DamagedError(ValueError):
    """A file is not what was written; the message says what is wrong with it."""


class OtherFormatError(DamagedError):
    """A file is whole, and of a format that this version does not read."""


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors: of their names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(uint8).numpy().data)
    return digest.hexdigest()


def read_bytes(path: Path, size: int = -1) -> bytes:
    """Read a file of a run, or its first ``size`` bytes.

    Raises ``DamagedError`` if it is missing or no file, and ``RunDirectoryError`` if the system refuses to read it.
    """
    try:
        mode = path.stat().st_mode
        if not S_ISREG(mode):
            raise DamagedError("it is not a file")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        if error.errno in GONE:
            raise DamagedError("it is missing") from error
        raise RunDirectoryError(
            f"{path} cannot be read: {error.strerror}; make it readable, or choose another run_dir"
        ) from error


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data with its format version and its checksum.

    >>> unseal(json.dumps(seal({"step": 3})))
    {'step': 3}
    """
    sealed = {"format": FORMAT, **data}
    return {**sealed, _CHECKSUM: _canonical(sealed)}


def unseal(text: str | bytes) -> dict[str, Any]:
    """Return the data of a JSON text that ``seal`` has made.

    Raises ``DamagedError`` if it is anything else, and ``OtherFormatError`` if its format is another one.
    """
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError("it is not JSON" if text else "it is empty") from error
    if not isinstance(held, dict):
        raise DamagedError("it holds no JSON mapping")
    if _CHECKSUM not in held:
        raise DamagedError("it has no checksum")
    if held.pop(_CHECKSUM) != _canonical(held):
        raise DamagedError("it does not match its checksum")
    _check_format(held.pop("format", None))
    return held


def _canonical(data: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(data, sort_keys=True, separators=(",", ":")))


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise OtherFormatError(f"it is of format {found!r}, and this version of Counterpoint reads format {FORMAT}")


def seal_text(text: str) -> str:
    """Return a text below a comment with its format version and its checksum."""
    return _TITLE.format(FORMAT, text_digest(text)) + text


def unseal_text(sealed: bytes) -> str:
    """Return the text below the comment that ``seal_text`` has put there.

    Raises ``DamagedError`` if either was changed, and ``OtherFormatError`` if its format is another one.
    """
    try:
        title, newline, text = sealed.decode().partition("\n")
    except UnicodeDecodeError as error:
        raise DamagedError("it is no text in UTF-8") from error
    found = title.removeprefix("# Counterpoint, format ").partition(",")[0]
    if title + newline != _TITLE.format(found, text_digest(text)):
        raise DamagedError("it does not match its checksum" if sealed else "it is empty")
    _check_format(int(found) if found.isdecimal() else found)
    return text
