"""A picture-book world: endless captioned pictures of everyday things, as pure functions of a seed.

``draw(random_scene(7), 64)`` is a picture, ``caption(random_scene(7), 0)`` says what is on it.
``HELD_OUT`` are subjects that no ``random_scene`` shows; ``scene_of`` puts one somewhere.
"""

from .chance import HELD_OUT, RESERVED, is_reserved, random_scene, scene_of, subject
from .kinds import CLASSES, KINDS, PLACES, SETTINGS
from .picture import draw
from .scene import COLOURS, Looks, Scene
from .words import caption

__all__ = [
    "CLASSES",
    "COLOURS",
    "HELD_OUT",
    "KINDS",
    "PLACES",
    "RESERVED",
    "SETTINGS",
    "Looks",
    "Scene",
    "caption",
    "draw",
    "is_reserved",
    "random_scene",
    "scene_of",
    "subject",
]
