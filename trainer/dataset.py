"""Which photos a step trains on: a pure function of (seed, step)."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from .captions import Texts
from .config import Concept
from .randomness import permutation
from .views import Frames, View


@dataclass(frozen=True)
class Row:
    """One image of a batch, with the text and the weight it trains with.

    Attributes:
        taught: its target is what the base predicts, not the noise.
    """

    view: View
    prompt: str
    weight: float
    is_class: bool
    taught: bool = False


class PairedRows:
    """Instance rows in a fresh order each epoch, class rows paired anew with them.

    An epoch holds every instance image of every concept ``repeats`` times, shuffled by
    (seed, epoch). Where a concept has class images, its k-th instance row of the run is joined
    by the k-th entry of an endless sequence of shuffled passes over these class images: all of
    them are used equally often and no pairing is fixed (the index-modulo pairing of diffusers'
    ``DreamBoothDataset`` repeats the same pairs, and leaves out class images past an epoch).
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        seed: int,
        frames: Frames,
        texts: Texts | None = None,
        prior_without_images: bool = False,
    ) -> None:
        """
        Args:
            prior_without_images: a concept without class images has class rows, too: its instance
                images under the class prompt, taught by the base (prior preservation without
                samples, as kohya's and OneTrainer's prior loss for LoRA).
        """
        self._concepts = tuple(concepts)
        self._photos = [(c.photos, c.class_photos) for c in self._concepts]
        self._seed = seed
        self._frames = frames
        self._texts = texts or Texts()
        self._prior_without_images = prior_without_images
        sizes = [len(c.instance_images) * c.repeats for c in self._concepts]
        self._ends = list(accumulate(sizes))
        self._sizes = sizes
        # the two epochs that a batch can touch, and the class passes that go with them
        self._order = lru_cache(maxsize=4)(self._shuffle_epoch)
        self._class_order = lru_cache(maxsize=4 * len(self._concepts))(self._shuffle_class)

    @property
    def epoch_length(self) -> int:
        """Instance rows of one epoch."""
        return self._ends[-1]

    def _shuffle_epoch(self, epoch: int) -> tuple[list[int], list[int]]:
        """The epoch's order, and for each place how many rows of its concept came before it."""
        order = permutation(self.epoch_length, self._seed, "instance order", epoch)
        seen = [0] * len(self._concepts)
        ranks = []
        for index in order:
            concept = bisect_right(self._ends, index)
            ranks.append(seen[concept])
            seen[concept] += 1
        return order, ranks

    def _shuffle_class(self, concept: int, turn: int) -> list[int]:
        length = len(self._concepts[concept].class_images)
        return permutation(length, self._seed, "class order", concept, turn)

    def instance(self, position: int) -> Row:
        """The instance row at ``position``, counted over the whole run from 0."""
        number, index, _ = self._locate(position)
        concept = self._concepts[number]
        image = index // concept.repeats
        view = self._frames.instance(self._photos[number][0][image], position)
        text = self._texts.instance(concept, image, position)
        return Row(view, text, 1.0, is_class=False)

    def class_(self, position: int) -> Row | None:
        """The class row that joins the instance row at ``position``; None without a prior."""
        number, _, draw = self._locate(position)
        concept = self._concepts[number]
        if self._prior_without_images and concept.lacks_class_images:
            view = self.instance(position).view
            text = self._texts.class_(concept, position)
            return Row(view, text, concept.prior_weight, is_class=True, taught=True)
        if not concept.has_prior:
            return None
        turn, place = divmod(draw, len(concept.class_images))
        photo = self._photos[number][1][self._class_order(number, turn)[place]]
        view = self._frames.class_(photo)
        text = self._texts.class_(concept, position)
        return Row(view, text, concept.prior_weight, is_class=True)

    def texts(self) -> list[str]:
        """Every text of the run that is known before it, once, in order."""
        return list(dict.fromkeys(t for c in self._concepts for t in self._texts.fixed(c)))

    def views(self) -> list[View]:
        """Every view that a row of the run can have, once, in order."""
        found: list[View] = []
        for concept, (photos, class_photos) in zip(self._concepts, self._photos, strict=True):
            found += [view for photo in photos for view in self._frames.views(photo)]
            if concept.has_prior:
                found += [self._frames.class_(photo) for photo in class_photos]
        return list(dict.fromkeys(found))

    def _locate(self, position: int) -> tuple[int, int, int]:
        """(concept, index inside the concept, how many rows of the concept came before)."""
        epoch, place = divmod(position, self.epoch_length)
        order, ranks = self._order(epoch)
        number = bisect_right(self._ends, order[place])
        start = self._ends[number] - self._sizes[number]
        return number, order[place] - start, epoch * self._sizes[number] + ranks[place]
