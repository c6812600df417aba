"""What an optimizer is: its settings, what it keeps of each parameter, and how it moves parameters by gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spurbench.bench.core.fields import setting as setting


@dataclass(frozen=True)
class Optimizer(ABC):
    """Base of every optimizer: fields are its settings, and `update` is one step, elementwise.

    Parameters are those of all replicas, [R, ...] each, so that no value of one may depend on another.
    """

    buffers: ClassVar[tuple[str, ...]] = ()  # names of what is kept of each parameter, zeros of its shape at first

    lr: float = 0.01  # limits and defaults of these two are those of every optimizer: see training_settings.py
    weight_decay: float = 0.0

    @abstractmethod
    def update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        kept: Mapping[str, list[Tensor]],
        steps: int,
        lr: float,
    ) -> None:
        """Move `parameters` and `kept` in place after `steps` steps since `kept` was zero; `lr` is the schedule's now.

        `gradients` may be overwritten.
        """
