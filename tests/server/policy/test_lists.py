"""Lists find what they are for in whatever spelling looks the same; mistakes in their files are told by line."""

# ruff: noqa: RUF001 (letters that look alike are what is tested)

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from server.policy import lists
from server.policy.lists import ListProblem, read_patterns, read_words
from server.policy.normal import normal, readable

LONGEST = 32_000


def words(folder: Path, text: str) -> lists.WordList:
    (folder / "words.txt").write_text(text)
    return read_words(folder / "words.txt")


def patterns(folder: Path, text: str) -> lists.PatternList:
    (folder / "patterns.txt").write_text(text)
    return read_patterns(folder / "patterns.txt")


@pytest.mark.parametrize(
    "text",
    [
        "a forbidden thing",
        "A FORBIDDEN THING",
        "Ｆｏｒｂｉｄｄｅｎ",  # full width
        "for\u200bbid\u200dden",  # zero width
        "for\u00adbidden",  # soft hyphen
        "for\ufe0fbidden\u2060",
        "f\u0336o\u0336r\u0336b\u0336i\u0336d\u0336d\u0336e\u0336n",  # struck through
        "\u202eforbidden",  # written from the right
        "𝐟𝐨𝐫𝐛𝐢𝐝𝐝𝐞𝐧",  # mathematical letters
        "(forbidden)",
        "a_forbidden_thing",
        "two\nforbidden\twords",
        "the old   castle",
        "the OLD-castle",
        "STRASSE",
        "eine straße",
        "ein裸体画",  # a script without spaces
        "हिन्दी में",
        "I\u0307stanbul",
    ],
)
def test_a_word_is_found_however_it_is_dressed(tmp_path: Path, text: str) -> None:
    listed = words(tmp_path, "# a note\n\nForbidden\n old castle \nstraße\n裸体\nहिन्दी\nİstanbul\n")
    assert listed.finds(text)


@pytest.mark.parametrize(
    "text",
    [
        "forbiddenly",
        "unforbidden",
        "an old stone castle",
        "castle old",
        "裸 の 体",
        "हिन्द",
        "",
        "f.o.r.b.i.d.d.e.n",  # letters set apart are not put together
        "fоrbidden",  # a Cyrillic o: other alphabets' letters are not taken for these
        "f0rbidden",  # nor digits
        "fórbidden",  # nor other letters
    ],
)
def test_another_word_is_not_found_and_what_is_not_undone_is_known(tmp_path: Path, text: str) -> None:
    assert not words(tmp_path, "forbidden\nold castle\n裸体\nहिन्दी\n").finds(text)


def test_spelling_a_text_again_changes_nothing() -> None:
    for text in ("Ｆ\u200bｏ", "İ\u0345", "ǰ\u0323", "ᾳ\u0345\u0307", "\u1e9e\u0336", "ﬃ", "裸\ufe00", "\u0390\u0308"):
        assert normal(normal(text)) == normal(text)
        assert readable(readable(text)) == readable(text)


def test_a_pattern_finds_in_any_case_what_a_reader_sees(tmp_path: Path) -> None:
    listed = patterns(tmp_path, "# a note\n\\bport?rait of [a-z]+ smith\\b\n\\d{3}-\\d{4}\n")
    assert listed.finds("Ｐｏｒtrait of John\u200b SMITH, in oil")
    assert listed.finds("call 555-1234")
    assert not listed.finds("portrait of john smithers")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("(", "missing \\)"),
        ("(?=look)", "invalid perl operator"),
        (r"(a)\1", "invalid escape"),
        ("a{2000}", "invalid repetition"),
        ("((a{100}){100}){100}", "invalid repetition|too large"),
        (r"\pL{500}", "too large"),
        ("a*", "empty text"),
        ("x" * 1001, "longer than 1000"),
    ],
)
def test_a_pattern_that_is_none_or_too_much_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ListProblem, match=problem) as caught:
        patterns(tmp_path, f"good\n\n{line}\n")
    assert [text.split(": ")[0] for text in caught.value.problems] == [f"{tmp_path / 'patterns.txt'}:3"]


def test_every_mistake_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ListProblem) as caught:
        words(tmp_path, "good\n...\n# note\n" + "x " * 41 + "\n")
    assert [text.split(":")[1] for text in caught.value.problems] == ["2", "4"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no line"),
        (b"# only notes\n", "no line"),
        (b"good\nb\xffd\n", ":2: is not UTF-8"),
        (b"word\n" * (lists.MAX_FILE_BYTES // 5 + 1), "larger than"),
    ],
)
def test_a_file_that_would_refuse_nothing_or_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(ListProblem, match=problem):
        read_words(tmp_path / "words.txt")


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(ListProblem, match="cannot be read"):
            read_patterns(path)


def test_too_many_patterns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ListProblem, match="500 are the most"):
        patterns(tmp_path, "\n".join(f"word{number}" for number in range(501)))


def seconds_of(listed: lists.WordList | lists.PatternList, text: str) -> float:
    began = time.perf_counter()
    assert not listed.finds(text)
    return time.perf_counter() - began


@pytest.mark.parametrize("line", [r"(a+)+$x", r"(a|a)*b", r"(a*)*b", r"(.*a){30}b", r"(x+x+)+y"])
def test_no_text_makes_a_pattern_take_more_than_linear_time(tmp_path: Path, line: str) -> None:
    """A backtracking engine would need 2 ** 32,000 steps for some of these: any bound in seconds tells."""
    listed = patterns(tmp_path, line)
    assert seconds_of(listed, "a" * LONGEST) < 5.0
    assert seconds_of(listed, "x" * LONGEST) < 5.0


@pytest.mark.parametrize("text", ["ab " * (LONGEST // 3), "\ufdfa" * LONGEST, "裸" * LONGEST, "\u200b" * LONGEST])
def test_the_longest_prompt_is_searched_in_bounded_time_whatever_it_holds(tmp_path: Path, text: str) -> None:
    assert seconds_of(words(tmp_path, "\n".join(f"ab ab {number}" for number in range(20_000))), text) < 20.0


def test_other_threads_work_while_a_pattern_is_matched(tmp_path: Path) -> None:
    """A text and a pattern made for each other, a tenth of a second and more: nobody else waits for it."""
    listed = patterns(tmp_path, "(?:a|b)*a(?:a|b){200}c")
    text = "".join(random.Random(0).choices("ab", k=LONGEST))
    searching = threading.Thread(target=listed.finds, args=(text,))
    searching.start()
    turns = 0
    while searching.is_alive():
        turns += 1
        time.sleep(0)
    assert turns > 50
