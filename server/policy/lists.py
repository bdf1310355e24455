"""Reads the files of words and of patterns, and says by line what is wrong with them.

Knows files and lines; knows no request.
Invariant: what was read is bounded, in bytes, lines and the work that it can make; a line that means nothing is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import re2

from server.policy.normal import normal, readable, words_of

T = TypeVar("T")
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_PATTERNS, MAX_PATTERN_CHARACTERS = 500, 1000
# What RE2 may keep of one pattern while it is matched, and how many instructions a pattern may become: its time is at
# worst their number times the text's length.
PATTERN_BYTES, MAX_INSTRUCTIONS = 512 * 1024, 1000
MAX_WORDS_IN_A_PHRASE = 40


class ListProblem(Exception):
    """A file that cannot be used; `problems` are sentences, each with its line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class WordList:
    """phrases: each as its words. lengths: that phrases have."""

    phrases: frozenset[tuple[str, ...]]
    lengths: tuple[int, ...]

    def finds(self, text: str) -> bool:
        """Whether one of them stands in the text, from the beginning of a word to the end of one."""
        words = words_of(normal(text))
        return any(
            tuple(words[place : place + length]) in self.phrases
            for length in self.lengths
            for place in range(len(words) - length + 1)
        )


@dataclass(frozen=True, slots=True)
class PatternList:
    """Compiled. Matching lets other threads work."""

    patterns: tuple[re2._Regexp, ...]

    def finds(self, text: str) -> bool:
        """Whether one of them stands in the text, whatever its case."""
        content = readable(text).encode()
        return any(pattern.search(content) is not None for pattern in self.patterns)


def read_words(path: Path) -> WordList:
    """A word or a phrase a line; what begins with # is a note. Raises ListProblem."""
    phrases = frozenset(_read(path, _phrase))
    return WordList(phrases, tuple(sorted({len(phrase) for phrase in phrases})))


def read_patterns(path: Path) -> PatternList:
    """A regular expression in RE2's syntax a line; what begins with # is a note. Raises ListProblem."""
    patterns = _read(path, _pattern)
    if len(patterns) > MAX_PATTERNS:
        raise ListProblem([f"{path}: holds {len(patterns)} patterns; {MAX_PATTERNS} are the most"])
    return PatternList(tuple(patterns))


def _phrase(line: str) -> tuple[str, ...]:
    """Raises ValueError."""
    words = tuple(words_of(normal(line)))
    if not words:
        raise ValueError("holds no letter and no digit, so that no text would ever match")
    if len(words) > MAX_WORDS_IN_A_PHRASE:
        raise ValueError(f"is longer than {MAX_WORDS_IN_A_PHRASE} words")
    return words


def _pattern(line: str) -> re2._Regexp:
    """Raises ValueError."""
    if len(line) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"is longer than {MAX_PATTERN_CHARACTERS} characters")
    options = re2.Options()
    options.max_mem, options.case_sensitive, options.log_errors = PATTERN_BYTES, False, False
    try:
        pattern = re2.compile(line.encode(), options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else "unreadable"
        raise ValueError(f"is no pattern of RE2's: {reason}") from None
    if pattern.programsize > MAX_INSTRUCTIONS:
        raise ValueError(f"becomes {pattern.programsize} instructions; {MAX_INSTRUCTIONS} are the most")
    if pattern.search(b"") is not None:
        raise ValueError("matches the empty text, and so every prompt")
    return pattern


def _read(path: Path, parse: Callable[[str], T]) -> list[T]:
    found: list[T] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.append(parse(text))
        except ValueError as problem:
            problems.append(f"{path}:{number}: {problem}")
    if not found and not problems:
        problems = [f"{path}: holds no line that would refuse anything"]
    if problems:
        raise ListProblem(problems)
    return found


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ListProblem([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ListProblem([f"{path}: is larger than {MAX_FILE_BYTES} bytes"])
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ListProblem([f"{path}:{line}: is not UTF-8 text"]) from error
