"""The many ways in which people ask for a scene: other words, other order, missing words, words that mean nothing.

Knows scenes and English; knows no pixels and no tensors.
Invariant: a reworded caption never contradicts its scene; what it leaves out is the scene's default or free.
"""

from __future__ import annotations

import hashlib
import random

from pipelines.demo.scenes import DEFAULT_BACKGROUND, POSITIONS, RELATIONS, Scene, Thing, article, random_scene

SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "circle", "disc", "ball", "dot", "sun"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle", "triangle", "pyramid"),
    "diamond": ("diamond", "diamond", "rhombus"),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring", "ring", "donut"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {"purple": ("purple", "purple", "violet"), "cyan": ("cyan", "cyan", "teal")}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium", "", ""),
    "large": ("large", "large", "big", "huge"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "to the left of": ("to the left of", "to the left of", "left of", "next to", "beside"),
    "to the right of": ("to the right of", "to the right of", "right of"),
    "above": ("above", "above", "over", "on top of"),
    "below": ("below", "below", "under"),
}
POSITION_WORDS: dict[str, tuple[str, ...]] = {
    "in the center": ("in the center", "in the middle", "in the centre", "", "", ""),
    "at the top": ("at the top", "on top"),
    "at the bottom": ("at the bottom", "on the bottom"),
    "on the left": ("on the left", "on the left side"),
    "on the right": ("on the right", "on the right side"),
}
BACKGROUND_FORMS = (
    "{subject} on {a_colour} background",
    "{subject} on {a_colour} background",
    "{subject} on {a_colour} background",
    "{subject} with {a_colour} background",
    "{subject} against {a_colour} background",
    "{subject}, {colour} background",
    "on {a_colour} background, {subject}",
)
OPENINGS = ("", "", "", "", "a picture of ", "a photo of ", "an image of ", "a painting of ", "draw ", "please draw ")
ENDINGS = ("", "", "", "", ", high quality", ", flat design", ", detailed", ", studio light", " please", ", 4k", ".")
FILLER = (
    *("masterpiece", "best", "quality", "highly", "detailed", "the", "and", "very", "photo", "of", "sharp", "focus"),
    *("8k", "studio", "light", "beautiful", "clean", "minimal", "art", "style", "modern", "simple", "vector", "icon"),
    *("with", "in", "by", "for", "trending", "award", "winning"),
)
UNKNOWN_NOUNS = ("castle", "cat", "dog", "house", "car", "tree", "robot", "portrait", "landscape", "shape", "thing")


def is_held_out(scene: Scene) -> bool:
    """Whether training never sees this scene: one in ten combinations of background, colours and shapes."""
    key = "|".join([scene.background, *(f"{thing.colour} {thing.shape}" for thing in scene.things)])
    return hashlib.sha256(key.encode()).digest()[0] % 10 == 0


def training_scene(rng: random.Random, pair_share: float = 0.4) -> Scene:
    while is_held_out(scene := random_scene(rng, pair_share)):
        pass
    return scene


def held_out_scenes(count: int, seed: int, pair_share: float) -> list[Scene]:
    """`count` scenes that training never saw, the same for the same seed."""
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        if is_held_out(scene := random_scene(rng, pair_share)):
            scenes.append(scene)
    return scenes


def reworded(scene: Scene, rng: random.Random) -> str:
    """Another caption for the scene: synonyms, fillers, now and then a missing word."""
    if rng.random() < 0.4:
        return scene.caption
    subject = _pair_words(scene, rng) if len(scene.things) == 2 else _single_words(scene, rng)
    if scene.background == DEFAULT_BACKGROUND and rng.random() < 0.5:
        framed = subject
    else:
        colour = _colour_word(scene.background, rng)
        framed = rng.choice(BACKGROUND_FORMS).format(subject=subject, colour=colour, a_colour=article(colour))
    return rng.choice(OPENINGS) + framed + rng.choice(ENDINGS)


def amid_filler(caption: str, rng: random.Random) -> str:
    """The caption with up to 20 words that mean nothing before and after it, and now and then a made-up one."""
    before, after = (_filler(rng.randint(0, 20), rng) for _ in range(2))
    return ", ".join(part for part in (before, caption, after) if part)


def _filler(count: int, rng: random.Random) -> str:
    return " ".join(rng.choice(FILLER) if rng.random() < 0.8 else _made_up_word(rng) for _ in range(count))


def _made_up_word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))


def _colour_word(colour: str, rng: random.Random) -> str:
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def _noun(thing: Thing, rng: random.Random) -> str:
    shape = rng.choice(UNKNOWN_NOUNS) if rng.random() < 0.04 else rng.choice(SHAPE_WORDS[thing.shape])
    colour = "" if rng.random() < 0.04 else _colour_word(thing.colour, rng)
    words = " ".join(word for word in (rng.choice(SIZE_WORDS[thing.size]), colour, shape) if word)
    return article(words) if rng.random() < 0.85 else words


def _pair_words(scene: Scene, rng: random.Random) -> str:
    first, second = scene.things
    centres = (first.centre, second.centre)
    relation = next(words for words, places in RELATIONS.items() if places == centres)
    return f"{_noun(first, rng)} {rng.choice(RELATION_WORDS[relation])} {_noun(second, rng)}"


def _single_words(scene: Scene, rng: random.Random) -> str:
    (thing,) = scene.things
    position = next(words for words, centre in POSITIONS.items() if centre == thing.centre)
    place = rng.choice(POSITION_WORDS.get(position, (position,)))
    return f"{_noun(thing, rng)} {place}".strip()
