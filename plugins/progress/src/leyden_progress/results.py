"""The table of results that a validation or a test prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def results_table(results: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Return a table with a row for each metric and a column for each dataloader; "" if there are no metrics."""
    rows: dict[str, list[str]] = {}
    for column, metrics in enumerate(results):
        for name, value in metrics.items():
            plain = name.removesuffix(f"/dataloader_idx_{column}")
            cells = rows.setdefault(plain, [""] * len(results))
            cells[column] = f"{float(value):.6g}" if isinstance(value, (Tensor, int, float)) else str(value)
    if not rows:
        return ""
    several = len(results) > 1
    heads = [f"{stage} metric", *(f"dataloader {i}" if several else "value" for i in range(len(results)))]
    table = [[name, *cells] for name, cells in sorted(rows.items())]
    widths = [max(len(row[i]) for row in [heads, *table]) for i in range(len(heads))]
    rule = "─" * (sum(widths) + 3 * len(widths) - 1)
    lines = [
        " " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *table]
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])
