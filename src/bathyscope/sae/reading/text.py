"""The text that examples stand in: its windows as token ids, and those tokens' words. Knows no model."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReadText:
    """All windows that were read, one after another.

    Args:
        ids: token ids, (places,).
        starts: where each window begins, and where the last one ends, (windows + 1,).
        words: text of each token that is named anywhere, by its id.
    """

    ids: Tensor
    starts: Tensor
    words: Mapping[int, str]

    def part(self, places: Tensor, named: Iterable[int]) -> tuple["ReadText", Tensor]:
        """Only those windows that some places are in, with the words of their tokens.

        Args:
            places: of any shape; -1 is none.
            named: other tokens whose words are kept.

        Returns:
            The text, and the same places in it.
        """
        windows = (torch.searchsorted(self.starts, places, right=True) - 1).clamp_min(0)
        used = windows[places >= 0].unique()
        sizes = self.starts[used + 1] - self.starts[used]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        stretches = zip(self.starts[used].tolist(), self.starts[used + 1].tolist(), strict=True)
        ids = torch.cat([self.ids[:0], *(self.ids[first:stop] for first, stop in stretches)])
        moved = torch.zeros(len(self.starts), dtype=torch.int64)
        moved[used] = starts[:-1] - self.starts[used]
        words = {token: self.word(token) for token in sorted({*ids.tolist(), *named})}
        return ReadText(ids, starts, words), torch.where(places >= 0, places + moved[windows], -1)

    def bounds(self, place: int, before: int, after: int) -> tuple[int, int]:
        """From where to where what stands around a place reaches within its window."""
        window = bisect_right(self._starts, place) - 1
        return max(place - before, self._starts[window]), min(place + after + 1, self._starts[window + 1])

    def texts(self, first: int, stop: int) -> tuple[str, ...]:
        """The tokens of a stretch, as text."""
        return tuple(self.words[token] for token in self.ids[first:stop].tolist())

    def word(self, token: int) -> str:
        """A token's text."""
        return self.words.get(token, f"<{token}>")

    @cached_property
    def _starts(self) -> list[int]:
        return self.starts.tolist()
