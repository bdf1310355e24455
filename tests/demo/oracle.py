"""Reads a picture the way a person would check it: background, shapes, colours and places, measured from pixels.

Nothing here is learned: colours are the nearest of the ten, shapes are the best overlap with each outline.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipelines.demo.scenes import COLOURS, OUTLINES, RING_HOLE, Point, Scene, Thing

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.float64]

SHORT_SIDE_PX = 128
# How far (in RGB, 0 to 255) a pixel must be from the background to belong to a shape.
SHAPE_DISTANCE = 45.0
# Specks below this share of the picture are no shape.
LEAST_AREA_SHARE = 0.004
TEMPLATE_PX = 40
TURNS_DEGREES = (-6, -3, 0, 3, 6)
# Half the way between two neighbouring places.
PLACE_TOLERANCE = 0.115


@dataclass(frozen=True, slots=True)
class Finding:
    """One shape in a picture; the centre as shares of width and height."""

    shape: str
    colour: str
    centre: Point

    def is_at(self, place: Point) -> bool:
        return all(abs(found - asked) <= PLACE_TOLERANCE for found, asked in zip(self.centre, place, strict=True))


@dataclass(frozen=True, slots=True)
class Reading:
    """All that the oracle sees in a picture."""

    background: str
    findings: tuple[Finding, ...]

    def mistakes(self, scene: Scene) -> list[str]:
        """What is not as the scene promises; empty when all is right."""
        mistakes = [] if self.background == scene.background else [f"background {self.background}"]
        if len(self.findings) != len(scene.things):
            return [*mistakes, f"{len(self.findings)} shapes"]
        for thing in scene.things:
            nearest = min(self.findings, key=lambda finding: math.dist(finding.centre, thing.centre))
            mistakes += _differences(nearest, thing)
        return mistakes


def _differences(finding: Finding, thing: Thing) -> list[str]:
    differences = []
    if finding.shape != thing.shape:
        differences.append(f"{thing.shape} looks like a {finding.shape}")
    if finding.colour != thing.colour:
        differences.append(f"{thing.colour} {thing.shape} is {finding.colour}")
    if not finding.is_at(thing.centre):
        differences.append(f"{thing.shape} is at {finding.centre}")
    return differences


def read(picture: Image.Image) -> Reading:
    """What is in an RGB picture of any size."""
    factor = SHORT_SIDE_PX / min(picture.size)
    small = picture.convert("RGB").resize(
        (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX
    )
    pixels = np.asarray(small, dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    differs: Mask = np.linalg.norm(pixels - background, axis=2) > SHAPE_DISTANCE
    areas = [area for area in _connected(differs) if area.mean() >= LEAST_AREA_SHARE]
    return Reading(_nearest_colour(background), tuple(_find(pixels, area) for area in areas))


def _find(pixels: Pixels, area: Mask) -> Finding:
    rows, columns = np.nonzero(area)
    centre = (
        (columns.min() + columns.max() + 1) / 2 / area.shape[1],
        (rows.min() + rows.max() + 1) / 2 / area.shape[0],
    )
    colour = _nearest_colour(np.median(pixels[_inner(area)], axis=0))
    crop = area[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return Finding(_nearest_shape(crop), colour, centre)


def _inner(area: Mask) -> Mask:
    """The area without its blurred edge, as far as something is left."""
    inner = area.copy()
    inner[1:] &= area[:-1]
    inner[:-1] &= area[1:]
    inner[:, 1:] &= area[:, :-1]
    inner[:, :-1] &= area[:, 1:]
    return inner if inner.any() else area


def _nearest_colour(rgb: npt.NDArray[np.float64]) -> str:
    return min(COLOURS, key=lambda name: math.dist(COLOURS[name], rgb.tolist()))


def _connected(mask: Mask) -> list[Mask]:
    """The 4-connected areas of a mask."""
    left = mask.copy()
    areas = []
    while left.any():
        area = _flood(left, *np.argwhere(left)[0].tolist())
        left &= ~area
        areas.append(area)
    return areas


def _flood(mask: Mask, row: int, column: int) -> Mask:
    area = np.zeros_like(mask)
    area[row, column] = True
    waiting = deque([(row, column)])
    while waiting:
        y, x = waiting.popleft()
        for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
            if inside and mask[near] and not area[near]:
                area[near] = True
                waiting.append(near)
    return area


def _nearest_shape(crop: Mask) -> str:
    square = _squared(crop)
    return max(OUTLINES, key=lambda shape: max(_overlap(square, template) for template in _templates(shape)))


def _squared(crop: Mask) -> Mask:
    """The crop, scaled so that its longer side fills a square of TEMPLATE_PX, centred."""
    factor = TEMPLATE_PX / max(crop.shape)
    size = (max(1, round(crop.shape[1] * factor)), max(1, round(crop.shape[0] * factor)))
    scaled = Image.fromarray(crop.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    square = Image.new("L", (TEMPLATE_PX, TEMPLATE_PX))
    square.paste(scaled, ((TEMPLATE_PX - size[0]) // 2, (TEMPLATE_PX - size[1]) // 2))
    return np.asarray(square) > 127


@functools.cache
def _templates(shape: str) -> tuple[Mask, ...]:
    return tuple(_template(shape, turn) for turn in TURNS_DEGREES)


def _template(shape: str, turn_degrees: float) -> Mask:
    large = 8 * TEMPLATE_PX
    canvas = Image.new("L", (large, large))
    pen = ImageDraw.Draw(canvas)
    turn, half = math.radians(turn_degrees), large / 2

    def placed(outline: list[Point], scale: float) -> list[Point]:
        cosine, sine = math.cos(turn) * scale * half, math.sin(turn) * scale * half
        return [(half + x * cosine - y * sine, half + x * sine + y * cosine) for x, y in outline]

    pen.polygon(placed(OUTLINES[shape], 0.9), fill=255)
    if shape == "ring":
        pen.polygon(placed(OUTLINES["circle"], 0.9 * RING_HOLE), fill=0)
    box = canvas.getbbox()
    return _squared(np.asarray(canvas.crop(box)) > 127)


def _overlap(one: Mask, other: Mask) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))
