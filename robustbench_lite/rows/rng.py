"""Random numbers that belong to a sample, not to a batch.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in integer tensor
arithmetic on the device. The key is a hash of (seed, purpose, stream); the counter is (block, draw,
dataset index, restart). So a sample gets the same numbers in any batch, order, shard and resumed
run, and no global generator is read or moved.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.rows.rows import Rows

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_UNIT = 2.0**-24


class Words(NamedTuple):
    """Four words of 32 bits, held in int64."""

    first: Tensor
    second: Tensor
    third: Tensor
    fourth: Tensor


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Words:
    """Draw four words of random bits for every counter.

    Args:
        counter: four words, which broadcast against each other.
        key: two words.
    """
    # Six buffers and no others: to allocate every intermediate would take longer than arithmetic.
    c0, c1, c2, c3 = (
        word.clone(memory_format=torch.contiguous_format)
        for word in torch.broadcast_tensors(*counter)  # type: ignore[no-untyped-call]
    )
    low = torch.empty_like(c0)
    high = torch.empty_like(c2)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two words fills 64 bits: int64 wraps, and masking the shifted word undoes the
        # sign.
        torch.mul(c0, _MULTIPLIERS[0], out=low)
        torch.mul(c2, _MULTIPLIERS[1], out=high)
        torch.bitwise_right_shift(high, 32, out=c0)
        c0.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK)
        torch.bitwise_right_shift(low, 32, out=c2)
        c2.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK)
        # The lower words keep their upper halves until a mask removes them: here, or in the line
        # that takes them up.
        c1, c3, high, low = high, low, c1, c3
        k0 = (k0 + _WEYL[0]) & _MASK
        k1 = (k1 + _WEYL[1]) & _MASK
    c1.bitwise_and_(_MASK)
    c3.bitwise_and_(_MASK)
    return Words(c0, c1, c2, c3)


Key = tuple[int, int]


def _key_of(text: str) -> Key:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


UP = range(2**31)
"""0, 1, 2, ..."""
DOWN = range(-1, -(2**31) - 1, -1)
"""-1, -2, -3, ..."""


class Pinned(NamedTuple):
    """A stream that is older than the names of streams: its numbers are kept.

    Draw n of the stream is the draw ``numbers[n]`` of the generator that the stream belongs to, so
    the pinned streams of one generator must have no number in common. The name is for the reader
    alone. A stream without a past is named by a text instead, and cannot collide.
    """

    name: str
    numbers: range


_MIRRORED = Pinned("mirrored", DOWN)


@dataclass(frozen=True)
class SampleRng(Rows):
    """One stream a row. ``draw`` numbers its draws; no number is used for two things.

    Draws for different things come from different streams:
    ``rng.stream("colours").uniform(step, shape)``.
    """

    key: Key
    index: Tensor
    """Data-set index of each row, (B,) int64."""
    restart: Tensor
    """Number of the restart each row is in, (B,) int64."""
    numbers: range | None = None
    """Those that the draws of a pinned stream have; ``None``: draw n has the number n."""

    @classmethod
    def create(
        cls, seed: int, purpose: str, index: Tensor, restart: Tensor | None = None
    ) -> SampleRng:
        """Make streams for the samples ``index`` (B,).

        Args:
            seed: of the run.
            purpose: keeps the draws of an attack apart from those of others.
            index: data-set indices, (B,) int64.
            restart: which restart each row is in, (B,) int64; 0 when None.
        """
        return cls(
            _key_of(f"{seed}/{purpose}"),
            index,
            torch.zeros_like(index) if restart is None else restart,
        )

    def nested(self) -> SampleRng:
        """Make streams of their own for what lies within: a random module inside of another."""
        return self.replace(key=_key_of(f"{self.key[0]}/{self.key[1]}/nested"))

    def stream(self, which: str | Pinned) -> SampleRng:
        """Give the stream ``which`` of this generator, whose draws count from 0.

        Args:
            which: a name, which goes into the key: no two names share a draw. Or a stream that is
                pinned to numbers.

        Raises:
            TypeError: this is a pinned stream itself, and its numbers are all that it has.
        """
        if self.numbers is not None:
            alone = "A pinned stream has no streams of its own: "
            raise TypeError(alone + "take both from the generator.")
        if isinstance(which, Pinned):
            return self.replace(numbers=which.numbers)
        return self.replace(key=_key_of(f"{self.key[0]}/{self.key[1]}/stream/{which}"))

    def mirrored(self) -> SampleRng:
        """Give the draws with numbers below 0, which have nothing to do with those from 0 up."""
        return self.stream(_MIRRORED)

    def bits(self, draw: int | Tensor, count: int) -> Tensor:
        """Draw random words of 32 bits.

        Args:
            draw: its number, or one a row (B,).
            count: words a row.

        Returns:
            (B, count) int64.
        """
        blocks = torch.arange((count + 3) // 4, device=self.index.device)
        blocks = blocks.unsqueeze(0)  # (1, blocks)
        number = self._number(draw) & _MASK
        row = self.index.unsqueeze(1) & _MASK
        restart = self.restart.unsqueeze(1) & _MASK
        words = philox((blocks, number, row, restart), self.key)
        return torch.cat(words, dim=1)[:, :count]

    def _number(self, draw: int | Tensor) -> Tensor:
        """Find the number of a draw, (B, 1) or (1, 1) int64 on the device.

        One number is written there, for a copy would wait for the device.
        """
        if not isinstance(draw, Tensor):
            number = draw if self.numbers is None else self.numbers[draw]
            return torch.full((1, 1), number, dtype=torch.int64, device=self.index.device)
        if self.numbers is not None and self.numbers != UP:
            draw = self.numbers.start + self.numbers.step * draw
        return draw.to(self.index).reshape(-1, 1)

    def uniform(self, draw: int | Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw uniform numbers on [0, 1) in steps of 2^-24, (B, *shape) float32."""
        words = self.bits(draw, math.prod(shape))
        return ((words >> 8).to(torch.float32) * _UNIT).reshape(len(self.index), *shape)

    def normal(self, draw: int | Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normal numbers (Box and Muller 1958), (B, *shape) float32."""
        count = math.prod(shape)
        half = (count + 1) // 2
        unit = (self.bits(draw, 2 * half) >> 8).to(torch.float32).mul_(_UNIT)
        radius = unit[:, :half].neg().log1p_().mul_(-2.0).sqrt_()
        angle = unit[:, half:] * (2 * math.pi)
        torch.mul(radius, angle.cos(), out=unit[:, :half])
        torch.mul(radius, angle.sin_(), out=unit[:, half:])
        return unit[:, :count].reshape(len(self.index), *shape)
