"""The catalogue: what kinds of things and places there are, and what may vary in them."""

# fmt: off
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from . import animals, creatures, garden, household, indoors, places, vehicles
from .pen import DAYLIGHT, Pen, Tint
from .scene import Looks

FUR = ("brown", "golden", "orange", "black", "grey", "white")
BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
PAINTS = (*BRIGHT, "brown", "black", "grey", "white")
CROWNS = ("green", "orange", "yellow", "red", "pink")
BADGES = ("star", "heart", "dots")
PET = ("sitting", "standing", "lying", "face")
COLLARS = ("red", "blue", "green", "yellow", "purple", "pink", "", "")


@dataclass(frozen=True)
class Kind:
    """What one sort of thing can look like. Each tuple is drawn from evenly."""

    draw: Callable[[Pen, Looks, str, float], None]
    colours: tuple[str, ...]
    seconds: tuple[str, ...]
    markings: tuple[str, ...]
    shapes: tuple[str, ...] = ("plain",)
    extras: tuple[str, ...] = ("",)
    poses: tuple[str, ...] = ("upright",)
    tilt: float = 4.0
    size: tuple[float, float] = (0.62, 0.86)


COATS = ("patch", "spots", "socks", "saddle", "bib")
KINDS: dict[str, Kind] = {
    "dog": Kind(animals.draw_pet, FUR, FUR, COATS, ("long", "short", "folded"), COLLARS, PET),
    "cat": Kind(
        animals.draw_pet, FUR, FUR, ("stripes", "patch", "socks", "bib"), ("pointed",), COLLARS, PET
    ),
    "rabbit": Kind(animals.draw_pet, FUR, FUR, ("spots", "socks", "bib"), ("upright", "lop"),
                   ("", "", "red", "blue"), PET, size=(0.56, 0.74)),
    "bird": Kind(creatures.draw_bird, PAINTS, PAINTS, ("bars", "tips", "cap"),
                 ("plain", "crest", "long beak"), poses=("standing", "flying"), tilt=8),
    "fish": Kind(creatures.draw_fish, BRIGHT, PAINTS, ("stripes", "dots", "belly", "mask"),
                 ("round", "slim", "tall fin"), poses=("swimming",), tilt=12),
    "car": Kind(vehicles.draw_car, PAINTS, PAINTS, ("roof", "stripe", "star", "dots", "doors"),
                ("beetle", "van", "pickup"), poses=("driving",), tilt=3, size=(0.7, 0.92)),
    "boat": Kind(vehicles.draw_boat, PAINTS, PAINTS, ("stripe", "portholes", "star"),
                 ("one sail", "two sails", "steamer"), poses=("sailing",), tilt=7),
    "cup": Kind(household.draw_cup, PAINTS, PAINTS, ("stripes", "inside", *BADGES),
                ("mug", "tall", "bowl"), ("steam", ""), size=(0.54, 0.76)),
    "teapot": Kind(household.draw_teapot, PAINTS, PAINTS, ("stripes", *BADGES), ("plain", "tall"),
                   size=(0.6, 0.82)),
    "ball": Kind(household.draw_ball, PAINTS, PAINTS, ("stripe", "wedges", *BADGES),
                 poses=("rolling",), tilt=0, size=(0.48, 0.7)),
    "backpack": Kind(household.draw_backpack, PAINTS, PAINTS, ("stripes", *BADGES),
                     ("round", "tall"), size=(0.58, 0.8)),
    "umbrella": Kind(household.draw_umbrella, PAINTS, PAINTS, ("wedges", "rim", *BADGES), tilt=14),
    "robot": Kind(household.draw_robot, PAINTS, PAINTS, ("plain", *BADGES), ("square", "round")),
    "house": Kind(garden.draw_house, PAINTS, PAINTS, ("plain", "lit", "round"),
                  ("cottage", "tower", "barn"), ("red", "brown", "grey", ""), tilt=2,
                  size=(0.66, 0.86)),
    "tree": Kind(garden.draw_tree, CROWNS, PAINTS, ("fruit", "blossom", "plain"),
                 ("round", "pine", "tall"), tilt=3, size=(0.68, 0.9)),
    "flower": Kind(garden.draw_flower, (*BRIGHT, "white"), PAINTS, ("dots", "tips", "plain"),
                   ("round", "daisy", "tulip"), tilt=5),
}
CLASSES = tuple(KINDS)


@dataclass(frozen=True)
class Place:
    """One setting: its words, its light, and the span of heights where things stand."""

    phrases: tuple[str, ...]
    back: Callable[[Image.Image, Pen, random.Random], None]
    front: Callable[[Pen, random.Random], None] | None = None
    tint: Tint = DAYLIGHT
    feet: tuple[float, float] = (0.86, 0.96)
    shadow: float = 0.34


PLACES: dict[str, Place] = {
    "": Place(("",), indoors.page_of_paper, shadow=0.26),
    "beach": Place(("on the beach",), places.beach),
    "snow": Place(
        ("in the snow",), places.snow, places.snowfall, Tint(air=(228, 238, 250), share=0.06)
    ),
    "night": Place(
        ("at night",), places.night, None, Tint((0.8, 0.82, 0.96), (44, 52, 120), 0.12), shadow=0.5
    ),
    "forest": Place(("in a forest", "in the forest"), places.forest, None, Tint((0.96, 1.0, 0.92))),
    "meadow": Place(("in a meadow", "on the grass"), places.meadow),
    "desert": Place(("in the desert",), places.desert, None, Tint((1.0, 0.96, 0.88))),
    "moon": Place(("on the moon",), places.moon, None, Tint((0.97, 0.97, 1.0)), shadow=0.55),
    "city": Place(("in a city", "in the city"), indoors.city),
    "room": Place(("in a room",), indoors.room),
    "sea": Place(("under water", "under the sea"), indoors.sea, indoors.bubbles,
                 Tint((0.86, 0.97, 1.0), (40, 140, 176), 0.16), (0.84, 0.94)),
    "rain": Place(("in the rain",), indoors.rain_town, indoors.rainfall,
                  Tint((0.92, 0.94, 0.98), (130, 144, 160), 0.08)),
}
SETTINGS = tuple(name for name in PLACES if name)
