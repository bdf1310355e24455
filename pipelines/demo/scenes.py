"""The world of the demo models: flat shapes on a flat background, and the captions that name them.

Knows the words, the geometry and how to paint a scene; knows no tensors and no models.
Invariant: a caption names every attribute that decides the picture, or the stated default holds
(medium size, centre), so that a picture can be judged against its caption by measuring pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 222, 60),
    "green": (40, 160, 70),
    "cyan": (70, 205, 220),
    "blue": (40, 80, 205),
    "purple": (130, 60, 175),
    "pink": (248, 150, 195),
    "black": (22, 22, 26),
    "white": (246, 246, 244),
}
# The radius of the circle around the shape, as a share of the picture's shorter side.
SIZES: dict[str, float] = {"small": 0.15, "medium": 0.21, "large": 0.28}
# The centre of the shape, as a share of width and height.
POSITIONS: dict[str, tuple[float, float]] = {
    "in the center": (0.5, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "in the top left": (0.27, 0.27),
    "in the top right": (0.73, 0.27),
    "in the bottom left": (0.27, 0.73),
    "in the bottom right": (0.73, 0.73),
}
# Where the first and the second object stand when the words lie between them.
RELATIONS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "to the left of": ((0.25, 0.5), (0.75, 0.5)),
    "to the right of": ((0.75, 0.5), (0.25, 0.5)),
    "above": ((0.5, 0.25), (0.5, 0.75)),
    "below": ((0.5, 0.75), (0.5, 0.25)),
}
DEFAULT_SIZE = "medium"
DEFAULT_BACKGROUND = "white"
# Two shapes share the room: in a pair every radius is this much smaller, so that they never touch.
PAIR_SCALE = 0.72

Point = tuple[float, float]


def _regular(corners: int, *, turn: float = 0.0) -> list[Point]:
    """A regular polygon in the unit circle, first corner straight up, turned clockwise by `turn` radians."""
    angles = (2 * math.pi * k / corners + turn for k in range(corners))
    return [(math.sin(angle), -math.cos(angle)) for angle in angles]


def _star() -> list[Point]:
    tips, dents = _regular(5), _regular(5, turn=math.pi / 5)
    return [point for tip, dent in zip(tips, dents, strict=True) for point in (tip, (dent[0] * 0.42, dent[1] * 0.42))]


def _cross(half_width: float = 0.32) -> list[Point]:
    w = half_width
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]


def _heart() -> list[Point]:
    """The classic parametric heart, scaled into the unit circle."""
    angles = [2 * math.pi * k / 72 for k in range(72)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16.5 - 0.12,
        )
        for t in angles
    ]


OUTLINES: dict[str, list[Point]] = {
    "circle": _regular(72),
    "square": [(x * 0.82, y * 0.82) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": _regular(3),
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "ring": _regular(72),
}
RING_HOLE = 0.55


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: its words, and its centre as a share of width and height."""

    shape: str
    colour: str
    size: str
    centre: Point


@dataclass(frozen=True, slots=True)
class Scene:
    """What a caption promises: one or two things on a background."""

    background: str
    things: tuple[Thing, ...]
    caption: str

    def radius(self, thing: Thing) -> float:
        """The radius of the thing's surrounding circle as a share of the shorter side."""
        return SIZES[thing.size] * (PAIR_SCALE if len(self.things) > 1 else 1.0)


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def single(shape: str, colour: str, background: str, size: str = "", position: str = "") -> Scene:
    """A scene of one shape; `size` and `position` may be empty: medium, in the centre."""
    noun = article(" ".join(word for word in (size, colour, shape) if word))
    place = f" {position}" if position else ""
    thing = Thing(shape, colour, size or DEFAULT_SIZE, POSITIONS[position or "in the center"])
    return Scene(background, (thing,), f"{noun}{place} on {article(background)} background")


def pair(first: tuple[str, str, str], relation: str, second: tuple[str, str, str], background: str) -> Scene:
    """A scene of two shapes, each given as (shape, colour, size or "")."""
    centres = RELATIONS[relation]
    things = tuple(
        Thing(shape, colour, size or DEFAULT_SIZE, centre)
        for (shape, colour, size), centre in zip((first, second), centres, strict=True)
    )
    nouns = [
        article(" ".join(word for word in (size, colour, shape) if word)) for shape, colour, size in (first, second)
    ]
    return Scene(background, things, f"{nouns[0]} {relation} {nouns[1]} on {article(background)} background")


def random_single(rng: random.Random) -> Scene:
    background, colour = rng.sample(list(COLOURS), 2)
    size = rng.choice(["", *SIZES])
    position = rng.choice(["", "", *POSITIONS])
    return single(rng.choice(list(OUTLINES)), colour, background, size, position)


def random_pair(rng: random.Random) -> Scene:
    background, *colours = rng.sample(list(COLOURS), 3)
    first, second = ((rng.choice(list(OUTLINES)), colour, rng.choice(["", "", *SIZES])) for colour in colours)
    return pair(first, rng.choice(list(RELATIONS)), second, background)


def random_scene(rng: random.Random, pair_share: float = 0.4) -> Scene:
    return random_pair(rng) if rng.random() < pair_share else random_single(rng)


def _placed(outline: Sequence[Point], centre: Point, radius: float, turn: float) -> list[Point]:
    cosine, sine = math.cos(turn), math.sin(turn)
    return [
        (centre[0] + radius * (x * cosine - y * sine), centre[1] + radius * (x * sine + y * cosine)) for x, y in outline
    ]


def _inside(centre: float, radius: float, length: int) -> float:
    """The coordinate nearest to `centre` at which a shape of this radius stays in the picture."""
    margin = radius * 1.03
    return min(max(centre, margin), length - margin)


def paint(
    scene: Scene,
    width_px: int,
    height_px: int,
    rng: random.Random | None = None,
    oversample: int = 2,
    play: float = 1.0,
) -> Image.Image:
    """Paint a scene as RGB.

    With `rng` the place, size and turn of each shape vary a little, as seeds should; `play`, 0 to 1, says how much.
    """
    wide, high = width_px * oversample, height_px * oversample
    background = COLOURS[scene.background]
    picture = Image.new("RGB", (wide, high), background)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        shift_x, shift_y, grow, turn = (rng.uniform(-play, play) for _ in range(4)) if rng else (0.0, 0.0, 0.0, 0.0)
        shorter = min(wide, high)
        radius = scene.radius(thing) * (1 + 0.07 * grow) * shorter
        centre = (
            _inside(thing.centre[0] * wide + shift_x * 0.03 * shorter, radius, wide),
            _inside(thing.centre[1] * high + shift_y * 0.03 * shorter, radius, high),
        )
        pen.polygon(_placed(OUTLINES[thing.shape], centre, radius, turn * 0.10), fill=COLOURS[thing.colour])
        if thing.shape == "ring":
            pen.polygon(_placed(OUTLINES["circle"], centre, radius * RING_HOLE, 0), fill=background)
    return picture.reduce(oversample) if oversample > 1 else picture
