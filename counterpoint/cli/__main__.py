"""``python -m counterpoint.cli`` is ``counterpoint``, for launchers that start modules, as torchrun does."""

from __future__ import annotations

import sys

from counterpoint.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
