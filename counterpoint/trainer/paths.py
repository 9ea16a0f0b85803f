"""Folders that a config names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["FolderPath"]

# What Linux and macOS take, less the names of the files that a run writes into its folder.
_LONGEST_NAME, _LONGEST_PATH = 255, 3_800


def _checked(text: str) -> str:
    """Put the user's home in the place of ``~``; raises ``ValueError`` for what no file system takes."""
    if "\0" in text:
        raise ValueError("holds a NUL character; write a path without it")
    try:
        path = Path(text).expanduser()
        data = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("holds characters that no path can hold; write another") from None
    except RuntimeError:
        raise ValueError("begins with the home of a user who is not known here; write the whole path") from None
    if len(data) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise ValueError(
            f"is too long; write at most {_LONGEST_NAME} bytes between two slashes, and {_LONGEST_PATH} in all"
        )
    return text if path == Path(text) else str(path)


FolderPath = Annotated[str, AfterValidator(_checked)]
"""The path of a folder, where ``~`` is the user's home."""
