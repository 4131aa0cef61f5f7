"""Which rows a step trains on: a pure function of (seed, position)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from .buckets import Size
from .captions import Texts
from .config import Concept
from .randomness import generator
from .stream import Share, Stream
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
    """The rows of a run: photos, and the class images that join them.

    Photos of one size are one :class:`Stream`. Where there are several sizes, ``batch_size`` rows
    in a row come from one of them. With n_k rows in a pass of stream k, a round is Σ n_k batches:
    n_k of stream k, spread evenly over the round and shuffled by (seed, round). A batch may begin
    in one pass of its stream and end in the next; so nothing is dropped or filled up, and in a
    round, which is ``batch_size`` epochs, every photo is used ``batch_size · repeats`` times.

    Attributes:
        sizes: of the rows, each once, (width, height) in pixels.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        seed: int,
        frames: Frames,
        texts: Texts | None = None,
        prior_without_images: bool = False,
        batch_size: int = 1,
    ) -> None:
        """
        Args:
            prior_without_images: a concept without class images has class rows, too: its instance
                images under the class prompt, taught by the base (prior preservation without
                samples, as kohya's and OneTrainer's prior loss for LoRA).
        """
        self._concepts = tuple(concepts)
        self._photos = [c.photos for c in self._concepts]
        self._seed = seed
        self._frames = frames
        self._texts = texts or Texts()
        self._prior_without_images = prior_without_images
        self._batch_size = batch_size
        self.sizes = sorted({frames.size_of(p) for photos in self._photos for p in photos})
        self._streams = [self._stream(size) for size in self.sizes]
        self._round = lru_cache(maxsize=4)(self._order_round)

    def _stream(self, size: Size) -> Stream:
        shares = [self._share(n, c, size) for n, c in enumerate(self._concepts)]
        name = size if len(self.sizes) > 1 else ()
        return Stream([share for share in shares if share.photos], self._seed, name)

    def _share(self, number: int, concept: Concept, size: Size) -> Share:
        """Class images of another shape join only where there is none of this one."""
        photos = enumerate(self._photos[number])
        indices = tuple(n for n, photo in photos if self._frames.size_of(photo) == size)
        if not concept.has_prior:
            return Share(number, concept.repeats, indices, ())
        classes = concept.class_photos
        same = tuple(photo for photo in classes if self._frames.size_of(photo) == size)
        return Share(number, concept.repeats, indices, same or classes)

    @property
    def epoch_length(self) -> int:
        """Instance rows of one epoch."""
        return sum(map(len, self._streams))

    @property
    def main_size(self) -> Size:
        """Of most instance rows; of two as frequent ones the squarer."""

        def rank(entry: tuple[Size, Stream]) -> tuple[int, float]:
            size, stream = entry
            return len(stream), -abs(math.log(size[0] / size[1]))

        return max(zip(self.sizes, self._streams, strict=True), key=rank)[0]

    def instance(self, position: int) -> Row:
        """The instance row at ``position``, counted over the whole run from 0."""
        _, stream, index = self._find(position)
        number, photo = stream.photo(index)
        view = self._frames.instance(self._photos[number][photo], position)
        text = self._texts.instance(self._concepts[number], photo, position)
        return Row(view, text, 1.0, is_class=False)

    def class_(self, position: int) -> Row | None:
        """The class row that joins the instance row at ``position``; None without a prior."""
        size, stream, index = self._find(position)
        number, _ = stream.photo(index)
        concept, photo = self._concepts[number], stream.class_photo(index)
        taught = self._prior_without_images and concept.lacks_class_images
        if taught:
            view = self.instance(position).view
        elif photo:
            view = self._frames.class_(photo, size)
        else:
            return None
        text = self._texts.class_(concept, position)
        return Row(view, text, concept.prior_weight, is_class=True, taught=taught)

    def pixels(self, position: int) -> int:
        """Of the instance row at ``position`` and of the class row that joins it."""
        (width, height), stream, index = self._find(position)
        concept = self._concepts[stream.photo(index)[0]]
        taught = self._prior_without_images and concept.lacks_class_images
        return width * height * (2 if concept.has_prior or taught else 1)

    def texts(self) -> list[str]:
        """Every text of the run that is known before it, once, in order."""
        return list(dict.fromkeys(t for c in self._concepts for t in self._texts.fixed(c)))

    @property
    def draws_texts(self) -> bool:
        """Whether there are others than those."""
        return any(map(self._texts.shuffles, self._concepts))

    def views(self) -> list[View]:
        """Every view that a row of the run can have, once; those of a photo follow each other."""
        found = [v for photos in self._photos for p in photos for v in self._frames.views(p)]
        classes = [
            self._frames.class_(photo, size)
            for size, stream in zip(self.sizes, self._streams, strict=True)
            for photo in stream.class_photos()
        ]
        classes.sort(key=lambda view: view.photo.path)
        return list(dict.fromkeys([*found, *classes]))

    def idle_classes(self) -> int:
        """How many class images never join a photo, because none has their shape."""
        used = {photo for stream in self._streams for photo in stream.class_photos()}
        return sum(p not in used for c in self._concepts if c.has_prior for p in c.class_photos)

    def _find(self, position: int) -> tuple[Size, Stream, int]:
        """The stream of a position, and how many of its rows came before."""
        if len(self._streams) == 1:
            return self.sizes[0], self._streams[0], position
        batch, place = divmod(position, self._batch_size)
        turn, batch = divmod(batch, self.epoch_length)
        number, before = self._round(turn)[batch]
        stream = self._streams[number]
        index = (turn * len(stream) + before) * self._batch_size + place
        return self.sizes[number], stream, index

    def _order_round(self, turn: int) -> list[tuple[int, int]]:
        """Of each batch of a round: its stream, and how many batches of that came before it.

        The i-th of n batches falls at a random place of the i-th of n equal parts of the round.
        """
        batches = []
        for number, (size, stream) in enumerate(zip(self.sizes, self._streams, strict=True)):
            g = generator(self._seed, "bucket order", turn, *size)
            places = torch.rand(len(stream), generator=g, dtype=torch.float64)
            places = (places + torch.arange(len(stream))) / len(stream)
            batches += [(at, number, i) for i, at in enumerate(places.tolist())]
        return [(number, i) for _, number, i in sorted(batches)]
