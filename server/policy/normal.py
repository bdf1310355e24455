"""One spelling for texts that look alike to a reader, so that lists need not hold every disguise.

Knows Unicode's forms; knows no lists.
Invariant: applied to what it returned, it changes nothing; the time is proportional to the text.
Source: Unicode Standard Annex 15 (NFKC) and section 3.13 (caseless matching: NFKC, folded, NFKC again). What it does
not undo: letters of other alphabets that look the same, digits in the place of letters, and letters set apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

# No glyph of their own, or none beside another's: soft hyphen, joiners, directions, fillers, variation selectors, tags.
UNSEEN = (
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
# Strokes and dots upon any letter; those that a language writes have become one with their letter before.
OVERLAYS = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
# Scripts that set no spaces between words: Thai, Lao, Burmese, Khmer, kana and Han.
UNSPACED = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3040, 0x30FF)),
    *((0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
)
HAN_BEGINS = 0x20000
Ranges = tuple[tuple[int, int], ...]


def readable(text: str) -> str:
    """NFKC, without what is not seen; upper and lower case stay."""
    return unicodedata.normalize("NFKC", _without(UNSEEN).sub("", text))


def normal(text: str) -> str:
    """As `readable`, without strokes upon letters, in one case."""
    seen = _without(OVERLAYS).sub("", readable(text))
    folded = unicodedata.normalize("NFKC", seen.casefold())
    # Folding may set a letter and its mark apart that were one, and a mark free that was bound.
    return unicodedata.normalize("NFKC", _without(OVERLAYS).sub("", folded))


def words_of(text: str) -> list[str]:
    """The words of a normal text. Where a script sets no spaces, every character is a word of its own."""
    # One by one, so that other threads get their turn between two words of a long text.
    return [found.group() for found in _words().finditer(text)]


@cache
def _without(ranges: Ranges) -> re.Pattern[str]:
    return re.compile(f"[{_class(ranges)}]+")


@cache
def _words() -> re.Pattern[str]:
    return re.compile(f"[{_class(UNSPACED)}]|[{_class(_spaced())}]+")


def _spaced() -> Ranges:
    """Letters, digits and what stands upon or beside them, such as the vowels of Hindi, of scripts with spaces. What
    lies beyond is Han, and what is not seen."""
    apart = tuple(place for first, last in (*UNSPACED, *UNSEEN, *OVERLAYS) for place in range(first, last + 1))
    return _ranges({place for place in range(HAN_BEGINS) if _is_of_a_word(chr(place))} - set(apart))


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character) in ("Mn", "Mc")


def _ranges(places: Iterable[int]) -> Ranges:
    found: list[tuple[int, int]] = []
    for place in sorted(places):
        if found and found[-1][1] == place - 1:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return tuple(found)


def _class(ranges: Ranges) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
