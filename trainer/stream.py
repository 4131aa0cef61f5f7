"""The endless order of one bucket's rows: photos in shuffled passes, class images with them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from .config import Photo
from .randomness import permutation


@dataclass(frozen=True)
class Share:
    """What a bucket holds of one concept.

    Attributes:
        number: of the concept in the run.
        repeats: how often a pass holds each photo.
        photos: indices of its instance images.
        classes: its class images that join them; empty without a prior.
    """

    number: int
    repeats: int
    photos: tuple[int, ...]
    classes: tuple[Photo, ...]


class Stream:
    """Instance rows in a fresh order each pass, class rows paired anew with them.

    A pass holds every photo ``repeats`` times, shuffled by (seed, pass). Where a concept has class
    images, its k-th row of the stream is joined by the k-th entry of an endless sequence of
    shuffled passes over these class images: all of them are used equally often and no pairing is
    fixed (the index-modulo pairing of diffusers' ``DreamBoothDataset`` repeats the same pairs, and
    leaves out class images past an epoch).
    """

    def __init__(self, shares: Sequence[Share], seed: int, name: tuple[int, ...] = ()) -> None:
        """
        Args:
            name: tells streams of one run apart.
        """
        self._shares = tuple(shares)
        self._seed = seed
        self._name = name
        self._sizes = [len(share.photos) * share.repeats for share in self._shares]
        self._ends = list(accumulate(self._sizes))
        # the two passes that a batch can touch, and the class passes that go with them
        self._order = lru_cache(maxsize=4)(self._shuffle)
        self._class_order = lru_cache(maxsize=4 * len(self._shares))(self._shuffle_class)

    def __len__(self) -> int:
        """Rows of one pass."""
        return self._ends[-1]

    def _shuffle(self, turn: int) -> tuple[list[int], list[int]]:
        """The pass's order, and for each place how many rows of its concept came before it."""
        order = permutation(len(self), self._seed, "instance order", turn, *self._name)
        seen = [0] * len(self._shares)
        ranks = []
        for index in order:
            share = bisect_right(self._ends, index)
            ranks.append(seen[share])
            seen[share] += 1
        return order, ranks

    def _shuffle_class(self, share: int, turn: int) -> list[int]:
        length, number = len(self._shares[share].classes), self._shares[share].number
        return permutation(length, self._seed, "class order", number, turn, *self._name)

    def photo(self, index: int) -> tuple[int, int]:
        """The number of the concept of the row at ``index``, and which of its photos."""
        number, place, _ = self._locate(index)
        share = self._shares[number]
        return share.number, share.photos[place // share.repeats]

    def class_photos(self) -> list[Photo]:
        """Every class image that can join a row."""
        return list(dict.fromkeys(photo for share in self._shares for photo in share.classes))

    def class_photo(self, index: int) -> Photo | None:
        """The class image that joins the row at ``index``; None without a prior."""
        number, _, draw = self._locate(index)
        share = self._shares[number]
        if not share.classes:
            return None
        turn, place = divmod(draw, len(share.classes))
        return share.classes[self._class_order(number, turn)[place]]

    def _locate(self, index: int) -> tuple[int, int, int]:
        """(share, row inside it, how many rows of the share came before)."""
        turn, place = divmod(index, len(self))
        order, ranks = self._order(turn)
        number = bisect_right(self._ends, order[place])
        start = self._ends[number] - self._sizes[number]
        return number, order[place] - start, turn * self._sizes[number] + ranks[place]
