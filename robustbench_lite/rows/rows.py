"""Dataclasses of tensors whose first dimension is the row, and what batching needs of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R", bound="Rows")


@dataclass(frozen=True)
class Rows:
    """Base of every per-row record.

    Tensor fields have the row first; nested Rows are followed; anything else is shared.
    """

    def select(self: R, index: Tensor) -> R:
        """Give the rows at ``index`` (M,), as new tensors."""
        return self._map(
            lambda value: value.select(index) if isinstance(value, Rows) else value[index]
        )

    def assign(self: R, index: Tensor, rows: R) -> R:
        """Write ``rows`` over the rows at ``index`` (M,), in place; give back the result."""
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            theirs = getattr(rows, field.name)
            if isinstance(mine, Rows):
                mine.assign(index, theirs)
            elif isinstance(mine, Tensor):
                mine[index] = theirs
        return self

    def append(self: R, rows: R) -> R:
        """Put ``rows`` behind these."""
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            theirs = getattr(rows, field.name)
            if isinstance(mine, Rows):
                values[field.name] = mine.append(theirs)
            elif isinstance(mine, Tensor):
                values[field.name] = torch.cat([mine, theirs])
        return dataclasses.replace(self, **values)

    def replace(self: R, **changes: Any) -> R:
        """Copy with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def _map(self: R, function: Any) -> R:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(
            self, **{k: function(v) for k, v in values.items() if isinstance(v, Tensor | Rows)}
        )


SMALLEST_BATCH = 16
"""Smaller batches are padded.

Below it, matrix kernels change, and the last bits of a row would depend on its company.
"""


def at_least(rows: Tensor, count: int) -> Tensor:
    """Repeat the last of ``rows`` (N, ...) until there are ``count``."""
    missing = count - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
