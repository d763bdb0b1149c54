"""``python -m leyden`` is the command ``leyden``; see :mod:`leyden.command`."""

from __future__ import annotations

import sys

from leyden.command import main

if __name__ == "__main__":
    sys.exit(main())
