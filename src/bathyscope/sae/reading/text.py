"""The text that examples stand in: its windows as token ids, and those tokens' words. Knows no model."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

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
