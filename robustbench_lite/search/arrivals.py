"""Rows on their way into the engine's slots."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustbench_lite.rows.rows import Rows
from robustbench_lite.search.attack import State
from robustbench_lite.search.slots import Slots
from robustbench_lite.search.task import Task


@dataclass(frozen=True)
class Arrivals(Rows):
    """Fresh rows, before the attack has made a state for them; fields as in :class:`Slots`."""

    position: Tensor
    index: Tensor
    restart: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    spent: Tensor
    start: Tensor
    lowest: Tensor

    def admit(self, state: State, restarts_left: int) -> Slots:
        """Make slots of them.

        Args:
            state: the one that the attack begins in.
            restarts_left: how many times each row may begin anew.
        """
        zeros = torch.zeros_like(self.y)
        inf = torch.full(zeros.shape, float("inf"), device=zeros.device)
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Slots(
            **own,
            restarts_left=zeros + restarts_left,
            best=self.x.clone(),
            best_size=inf,
            forward=zeros.clone(),
            backward=zeros.clone(),
            wins=zeros.clone(),
            unasked=zeros.bool(),
            done=zeros.bool(),
            lowest_margin=inf.clone(),
            fault=-inf,
            state=state,
        )


def enter(task: Task, position: Tensor, device: torch.device) -> Arrivals:
    """Take the rows at ``position`` (B,) of a task to ``device``."""
    x = task.x[position].to(device)
    y, target, index = (t[position].to(device) for t in (task.y, task.target, task.index))
    nothing = x.new_empty(len(x), 0)
    spent = torch.zeros_like(y) if task.spent is None else task.spent[position].to(device)
    start = nothing if task.start is None else task.start[position].to(device)
    lowest = x.clone() if task.keep_lowest else nothing
    restart = torch.full_like(y, task.first_restart)
    return Arrivals(position.to(device), index, restart, x, y, target, spent, start, lowest)
