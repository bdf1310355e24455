"""Models come out of an archive as they went in, also after an interruption; from a wrong archive nothing comes out."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.weights.archive import check_archive, export_models, import_archive
from pipelines.weights.archive_layout import ArchiveProblem, Index, Packed, header, index_name, layout
from pipelines.weights.arrival import ArrivalProblem, staging_of
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ManifestProblem,
    describe,
    find_damage,
    read_manifest,
    sha256_of,
    write_manifest,
)
from tests.pipelines.test_manifest import ORIGIN, UNET, contents, flip_bit, write_model

ROOT = Path(__file__).resolve().parents[2]
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Two models: one with a manifest of its own, one without, whose id holds a slash."""
    root = tmp_path_factory.mktemp("models")
    first = write_model(root / "first", unet_bytes=3_000_000)
    write_manifest(first, describe(first, ORIGIN))
    return [("first", first), ("owner/second", write_model(root / "second", seed=1))]


@pytest.fixture(scope="module")
def archive(models: list[tuple[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("archive") / "models.tar"
    export_models(models, target)
    return target


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def names_in(folder: Path) -> list[str]:
    """All that lies there, hidden or not."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_what_was_exported_is_imported(models: list[tuple[str, Path]], archive: Path, into: Path) -> None:
    places = import_archive(archive, into)
    assert places == [into / "first", into / "owner--second"]
    for place, (_, source) in zip(places, models, strict=True):
        assert contents(place) == contents(source)
        assert find_damage(place, read_manifest(place), "all") == ()
        assert find_damage(place, read_manifest(place), "nothing") == ()
    assert read_manifest(into / "first").origin == ORIGIN
    assert names_in(into) == ["first", "owner--second"]


def test_an_archive_is_plain_tar_for_everybody(models: list[tuple[str, Path]], archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive, "r:") as tar:
        assert all(member.isreg() for member in tar.getmembers())
        tar.extractall(tmp_path / "python", filter="data")
    (tmp_path / "system").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "system"], check=True, timeout=60)  # noqa: S607
    for place in ("python", "system"):
        assert contents(tmp_path / place / "first") == contents(models[0][1])


def test_the_same_models_make_the_same_bytes(models: list[tuple[str, Path]], archive: Path, tmp_path: Path) -> None:
    export_models(models, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_a_single_file_travels_too(tmp_path: Path, into: Path) -> None:
    source = write_model(tmp_path / "model") / UNET
    export_models([("style", source)], tmp_path / "a.tar")
    assert import_archive(tmp_path / "a.tar", into) == [into / "style"]
    assert contents(into / "style") == {source.name: source.read_bytes()}


def test_a_name_longer_than_the_header_has_room_for_travels(tmp_path: Path, into: Path) -> None:
    source = write_model(tmp_path / "model")
    long = source / ("x" * 90) / ("y" * 90 + ".json")
    long.parent.mkdir()
    long.write_text("{}")
    export_models([("m" * 100, source)], tmp_path / "a.tar")
    (place,) = import_archive(tmp_path / "a.tar", into)
    assert contents(place) == contents(source)


def test_files_beyond_eight_gigabytes_have_a_header() -> None:
    size_bytes = 24_000_000_000
    assert tarfile.TarInfo.frombuf(header("a/b", size_bytes), "utf-8", "strict").size == size_bytes


@settings(max_examples=15, deadline=None, database=None)
@given(cut=st.floats(0, 1))
def test_an_interrupted_export_goes_on_to_the_same_bytes(
    models: list[tuple[str, Path]], archive: Path, tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    target = tmp_path_factory.mktemp("cut") / "models.tar"
    whole = archive.read_bytes()
    begun = whole[: int(cut * len(whole))]
    target.with_name("models.tar.part").write_bytes(begun)
    written: list[int] = []
    export_models(models, target, written.append)
    assert target.read_bytes() == whole
    assert names_in(target.parent) == ["models.tar"]
    assert sum(written) == len(whole)
    # What was there is told in one go, unless it was less than the index, which tells it from another archive.
    assert written[0] in (0, len(begun))


def test_what_an_interrupted_export_wrote_is_not_written_again(
    models: list[tuple[str, Path]], archive: Path, tmp_path: Path
) -> None:
    part = tmp_path / "models.tar.part"
    part.write_bytes(archive.read_bytes()[:2_000_000])
    inode = part.stat().st_ino
    written: list[int] = []
    export_models(models, tmp_path / "models.tar", written.append)
    assert written[0] == 2_000_000
    assert (tmp_path / "models.tar").stat().st_ino == inode


def test_what_the_disk_lost_of_an_interrupted_export_is_noticed(
    models: list[tuple[str, Path]], archive: Path, tmp_path: Path
) -> None:
    lost = bytearray(archive.read_bytes()[:2_000_000])
    lost[1_900_000:] = bytes(100_000)
    (tmp_path / "models.tar.part").write_bytes(lost)
    with pytest.raises(ArchiveProblem, match=r"not exported: .*first/unet.* is damaged"):
        export_models(models, tmp_path / "models.tar")
    assert names_in(tmp_path) == []


def test_the_beginning_of_another_archive_is_not_gone_on_with(
    models: list[tuple[str, Path]], archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "models.tar.part").write_bytes(archive.read_bytes()[:100_000])
    export_models(models[1:], tmp_path / "models.tar")
    assert [model.id for model in check_archive(tmp_path / "models.tar").models] == ["owner/second"]


def test_a_damaged_model_is_not_exported(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    write_manifest(source, describe(source, ORIGIN))
    (source / UNET).unlink()
    with pytest.raises(ArchiveProblem, match=f"m is not exported: {source / UNET} is missing"):
        export_models([("m", source)], tmp_path / "a.tar")
    assert names_in(tmp_path) == ["model"]


def test_damage_that_its_time_does_not_show_is_found_before_the_archive_appears(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    write_manifest(source, describe(source, ORIGIN))
    flip_bit(source / UNET)
    with pytest.raises(ArchiveProblem, match=r"m/unet.* is damaged"):
        export_models([("m", source)], tmp_path / "a.tar")
    assert names_in(tmp_path) == ["model"]


def test_an_archive_is_never_overwritten(models: list[tuple[str, Path]], tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("precious")
    with pytest.raises(ArrivalProblem, match="is there already"):
        export_models(models, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_text() == "precious"


@pytest.mark.parametrize("model_id", ["", "../x", "/x", "a\n"])
def test_a_model_without_a_decent_id_is_not_exported(tmp_path: Path, model_id: str) -> None:
    with pytest.raises(ManifestProblem, match="no model id"):
        export_models([(model_id, write_model(tmp_path / "model"))], tmp_path / "a.tar")
    assert names_in(tmp_path) == ["model"]


def test_two_models_of_one_folder_name_are_not_exported(models: list[tuple[str, Path]], tmp_path: Path) -> None:
    with pytest.raises(ManifestProblem, match="a--b is there twice"):
        export_models([("a/b", models[0][1]), ("a--b", models[1][1])], tmp_path / "a.tar")


def test_an_export_that_does_not_fit_is_refused_before_it_begins(
    models: list[tuple[str, Path]], tmp_path: Path
) -> None:
    with pytest.raises(ArrivalProblem, match="too full"):
        export_models(models, tmp_path / "a.tar", free=lambda _: 3_000_000)
    assert names_in(tmp_path) == []


def test_an_import_that_does_not_fit_is_refused_before_it_begins(archive: Path, into: Path) -> None:
    with pytest.raises(ArrivalProblem, match="too full"):
        import_archive(archive, into, free=lambda _: 3_000_000)
    assert not into.exists()


def interrupt_after(count_bytes: int) -> Callable[[int], None]:
    """Progress at which somebody presses Ctrl-C."""
    left = count_bytes

    def advance(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise KeyboardInterrupt

    return advance


def test_an_interrupted_import_shows_nothing_and_goes_on(
    models: list[tuple[str, Path]], archive: Path, into: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_archive(archive, into, interrupt_after(2_000_000))
    assert names_in(into) == [".first.arriving"]
    part = staging_of(into / "first") / f"{UNET}.part"
    begun_bytes, inode = part.stat().st_size, part.stat().st_ino
    assert 1_000_000 < begun_bytes < 3_000_000
    # Going on needs no more room than what is missing.
    needed_bytes = sum(model.manifest.size_bytes for model in check_archive(archive).models) - 1_000_000
    import_archive(archive, into, free=lambda _: needed_bytes + 64 * 1024 * 1024)
    assert names_in(into) == ["first", "owner--second"]
    assert (into / "first" / UNET).stat().st_ino == inode
    assert [contents(into / name) for name in names_in(into)] == [contents(source) for _, source in models]


def test_what_an_interrupted_import_copied_is_not_copied_again(
    models: list[tuple[str, Path]], archive: Path, tmp_path: Path, into: Path
) -> None:
    """What the archive holds there now would be noticed."""
    copy = Path(shutil.copy(archive, tmp_path / "copy.tar"))
    with pytest.raises(KeyboardInterrupt):
        import_archive(copy, into, interrupt_after(2_000_000))
    flip_bit(copy, 1_000_000)
    with pytest.raises(ArchiveProblem):
        check_archive(copy)
    import_archive(copy, into)
    assert contents(into / "first") == contents(models[0][1])


def test_an_import_can_be_interrupted_again_and_again(
    models: list[tuple[str, Path]], archive: Path, into: Path
) -> None:
    for count_bytes in range(0, 3_200_000, 400_000):
        with pytest.raises(KeyboardInterrupt):
            import_archive(archive, into, interrupt_after(count_bytes))
        assert not (into / "first").exists()
    import_archive(archive, into)
    assert contents(into / "first") == contents(models[0][1])


def test_what_the_disk_lost_of_an_interrupted_import_is_copied_again(
    models: list[tuple[str, Path]], archive: Path, into: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_archive(archive, into, interrupt_after(2_000_000))
    flip_bit(staging_of(into / "first") / f"{UNET}.part", 500_000)
    flip_bit(staging_of(into / "first") / "model_index.json")
    import_archive(archive, into)
    assert contents(into / "first") == contents(models[0][1])


def test_what_another_import_left_does_not_come_along(
    models: list[tuple[str, Path]], archive: Path, into: Path
) -> None:
    stray = staging_of(into / "first") / "unet" / "stray.json"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}")
    import_archive(archive, into)
    assert contents(into / "first") == contents(models[0][1])


def test_a_model_that_is_there_and_the_same_is_left_as_it_is(archive: Path, into: Path) -> None:
    import_archive(archive, into)
    before = (into / "first" / UNET).stat()
    shutil.rmtree(into / "owner--second")
    import_archive(archive, into)
    assert (into / "first" / UNET).stat() == before
    assert names_in(into) == ["first", "owner--second"]


@pytest.mark.parametrize("name", ["first", "owner--second"])
def test_a_place_that_is_taken_is_refused_and_nothing_is_unpacked(archive: Path, into: Path, name: str) -> None:
    (into / name).mkdir(parents=True)
    (into / name / "precious").write_text("x")
    with pytest.raises(ArrivalProblem, match=f"{into / name} is there already"):
        import_archive(archive, into)
    assert names_in(into) == [name]
    assert contents(into / name) == {"precious": b"x"}


def test_a_place_that_is_taken_meanwhile_brings_the_others_back(archive: Path, into: Path) -> None:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done > 3_000_000:
            (into / "owner--second").mkdir(exist_ok=True)

    with pytest.raises(ArrivalProblem, match="owner--second is there already"):
        import_archive(archive, into, advance)
    assert not (into / "first").exists()
    (into / "owner--second").rmdir()
    import_archive(archive, into)
    assert names_in(into) == ["first", "owner--second"]


def test_two_imports_at_once_are_refused(archive: Path, into: Path) -> None:
    def advance(_count: int) -> None:
        code = (
            "import sys; from pathlib import Path; from pipelines.weights.archive import import_archive\n"
            "import_archive(*map(Path, sys.argv[1:]))"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, archive, into],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert f"another process is just making {into / 'first'}" in other.stderr
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_archive(archive, into, advance)


def refused(archive: Path, into: Path) -> str:
    """What is wrong with an archive from which nothing came out, and for which nothing was written."""
    into.mkdir(exist_ok=True)
    (into / "neighbour").write_text("x")
    with pytest.raises(CheckpointProblem) as caught:
        import_archive(archive, into)
    assert names_in(into) == ["neighbour"]
    assert (into / "neighbour").read_text() == "x"
    return str(caught.value)


def test_a_missing_archive_is_named(into: Path) -> None:
    assert refused(into / "no.tar", into) == f"{into / 'no.tar'} is missing"


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(512), bytes(10240), b"PK\3\4" * 500, gzip.compress(bytes(2000), mtime=0)]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, into: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    assert "is no archive that" in refused(tmp_path / "a.tar", into)


@settings(max_examples=40, deadline=None, database=None)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_an_archive_cut_short_anywhere_is_refused(
    archive: Path, tmp_path_factory: pytest.TempPathFactory, cut: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = archive.read_bytes()
    (folder / "a.tar").write_bytes(whole[: int(cut * len(whole))])
    assert str(folder / "a.tar") in refused(folder / "a.tar", folder / "into")


@settings(max_examples=60, deadline=None, database=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), near_start=st.booleans())
def test_an_archive_with_one_wrong_bit_is_refused(
    archive: Path, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, near_start: bool
) -> None:
    folder = tmp_path_factory.mktemp("bit")
    content = bytearray(archive.read_bytes())
    content[int(place * (8192 if near_start else len(content)))] ^= 1 << bit
    (folder / "a.tar").write_bytes(content)
    assert str(folder / "a.tar") in refused(folder / "a.tar", folder / "into")
    with pytest.raises(CheckpointProblem, match=str(folder / "a.tar")):
        check_archive(folder / "a.tar")


def test_what_stands_behind_an_archive_is_refused(archive: Path, tmp_path: Path, into: Path) -> None:
    (tmp_path / "a.tar").write_bytes(archive.read_bytes() + bytes(512))
    assert "512 bytes more than its index says" in refused(tmp_path / "a.tar", into)


def packed(*names: str, model_id: str = "m") -> Index:
    """An index of empty files."""
    return Index((Packed(model_id, Manifest(tuple(FileEntry(name, 0, EMPTY_SHA256) for name in names))),))


def write_archive(path: Path, index: Index, members: Iterator[bytes] | None = None) -> Path:
    """An archive with a good index, and behind it what its index says, or other members."""
    content = msgspec.json.encode(index)
    whole = b"".join(segment.content for segment in layout(index, content))
    if members is not None:
        start = sum(segment.size_bytes for segment in layout(index, content)[:3])
        whole = whole[:start] + b"".join(members) + bytes(1024)
    path.write_bytes(whole)
    return path


def test_the_archives_of_these_tests_are_good_by_themselves(tmp_path: Path, into: Path) -> None:
    index = packed("a.json", "b/c.json")
    members = (header(name, 0) for name in ("m/a.json", "m/b/c.json"))
    (place,) = import_archive(write_archive(tmp_path / "a.tar", index, members), into)
    assert contents(place) == {"a.json": b"", "b/c.json": b""}


@pytest.mark.parametrize(
    "names",
    [
        ("../x.json",),
        ("/etc/x.json",),
        ("a/../../../x.json",),
        ("a.json", "a.json"),
        ("a", "a/b"),
        ("unet/evil.py",),
        ("unet/model.bin",),
        ("a\nb",),
        ("a\\b",),
        ("",),
    ],
)
def test_an_index_with_names_that_are_not_allowed_is_refused(
    tmp_path: Path, into: Path, names: tuple[str, ...]
) -> None:
    problem = refused(write_archive(tmp_path / "a.tar", packed(*names)), into)
    assert "not allowed" in problem or "twice" in problem or "as a file and as a folder" in problem or "code" in problem


@pytest.mark.parametrize("model_id", ["../m", "/m", "", ".m", "a\n"])
def test_an_index_with_ids_that_are_none_is_refused(tmp_path: Path, into: Path, model_id: str) -> None:
    content = msgspec.json.encode(packed("a.json", model_id=model_id))
    whole = header(index_name(content), len(content)) + content + bytes(-len(content) % 512) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(whole)
    assert "no model id" in refused(tmp_path / "a.tar", into)


def member(kind: bytes, name: str = "m/a.json", link: str = "") -> bytes:
    one = tarfile.TarInfo(name)
    one.type, one.linkname = kind, link
    return one.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (member(tarfile.REGTYPE, "../../x.json"), "holds the file '../../x.json'"),
        (member(tarfile.REGTYPE, "/etc/x.json"), "holds the file '/etc/x.json'"),
        (member(tarfile.SYMTYPE, link="/etc/passwd"), "holds the link 'm/a.json'"),
        (member(tarfile.LNKTYPE, link="../../x"), "holds the link 'm/a.json'"),
        (member(tarfile.CHRTYPE), "holds the device or special file 'm/a.json'"),
        (member(tarfile.FIFOTYPE), "holds the device or special file 'm/a.json'"),
        (member(tarfile.DIRTYPE), "holds the folder 'm/a.json'"),
        (member(tarfile.XHDTYPE), "holds the device or special file 'm/a.json'"),
        (member(tarfile.REGTYPE) + member(tarfile.REGTYPE), "holds the file 'm/a.json' where its index says the end"),
        (
            member(tarfile.REGTYPE) + member(tarfile.SYMTYPE, "m/b", "/"),
            "holds the link 'm/b' where its index says the",
        ),
        (b"\xff" * 512, "holds damaged bytes"),
    ],
)
def test_a_member_that_the_index_does_not_name_is_refused_and_told(
    tmp_path: Path, into: Path, found: bytes, words: str
) -> None:
    problem = refused(write_archive(tmp_path / "a.tar", packed("a.json"), iter([found])), into)
    assert words in problem


def test_a_giant_header_is_not_read_into_memory(tmp_path: Path, into: Path) -> None:
    giant = tarfile.TarInfo("pax")
    giant.type, giant.size = tarfile.XHDTYPE, 40_000_000_000
    path = write_archive(tmp_path / "a.tar", packed("a.json"), iter([giant.tobuf(tarfile.GNU_FORMAT)]))
    os.truncate(path, 40_000_010_000)  # takes no room: it is a hole
    assert "holds the device or special file 'pax'" in refused(path, into)


def test_a_giant_index_is_not_read_into_memory(tmp_path: Path, into: Path) -> None:
    (tmp_path / "a.tar").write_bytes(header(index_name(b""), 40_000_000_000))
    os.truncate(tmp_path / "a.tar", 40_000_010_000)
    assert "is no archive that" in refused(tmp_path / "a.tar", into)


def test_files_that_are_larger_than_the_archive_are_refused(tmp_path: Path, into: Path) -> None:
    entry = FileEntry("a.json", 2**62, EMPTY_SHA256)
    index = Index((Packed("m", Manifest((entry,))),))
    path = write_archive(tmp_path / "a.tar", index)
    assert "cut short" in refused(path, into)


def test_a_wrong_digest_in_the_index_is_refused_and_leaves_nothing(tmp_path: Path, into: Path) -> None:
    entries = (FileEntry("a.json", 0, EMPTY_SHA256), FileEntry("b.json", 0, "0" * 64))
    path = write_archive(tmp_path / "a.tar", Index((Packed("m", Manifest(entries)),)))
    assert "m/b.json is damaged (its sha256 differs" in refused(path, into)


def test_an_archive_by_another_program_is_refused(models: list[tuple[str, Path]], tmp_path: Path, into: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(models[0][1], "first")
    assert "is no archive that `safelight models export` wrote" in refused(tmp_path / "a.tar", into)


def test_an_import_follows_no_link_that_waits_in_its_way(archive: Path, into: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    into.mkdir()
    (into / "first").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArrivalProblem, match="is there already"):
        import_archive(archive, into)
    assert names_in(tmp_path / "elsewhere") == []


def test_a_full_disk_is_named_and_the_import_goes_on_later(
    models: list[tuple[str, Path]], archive: Path, into: Path
) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from pipelines.weights.archive import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))\n"
        "try: import_archive(*map(Path, sys.argv[1:]))\n"
        "except CheckpointProblem as problem: print(problem)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, archive, into], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout.startswith(f"the import into {into} stopped: File too large")
    assert not (into / "first").exists()
    import_archive(archive, into)
    assert contents(into / "first") == contents(models[0][1])


def test_a_full_disk_is_named_and_the_export_goes_on_later(
    models: list[tuple[str, Path]], archive: Path, tmp_path: Path
) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from pipelines.weights.archive import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))\n"
        "try: export_models([('first', Path(sys.argv[1])), ('owner/second', Path(sys.argv[2]))], Path(sys.argv[3]))\n"
        "except CheckpointProblem as problem: print(problem)"
    )
    target = tmp_path / "models.tar"
    finished = subprocess.run(
        [sys.executable, "-c", code, models[0][1], models[1][1], target],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert finished.stdout == f"{target} cannot be written: File too large\n"
    assert names_in(tmp_path) == ["models.tar.part"]
    written: list[int] = []
    export_models(models, target, written.append)
    assert written[0] > 1_000_000
    assert target.read_bytes() == archive.read_bytes()


def test_an_archive_carries_no_times_and_no_owner(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in tar} == {(0, 0, 0, "", 0o644)}
        first = tar.extractfile(tar.getmembers()[0])
        assert first is not None
        index = msgspec.json.decode(first.read(), type=Index)
    assert all(entry.modified_ns is None for model in index.models for entry in model.manifest.files)
    assert MANIFEST_NAME not in {entry.name for model in index.models for entry in model.manifest.files}


def test_the_digest_of_an_entry_is_that_of_its_file(models: list[tuple[str, Path]], archive: Path) -> None:
    (unet,) = (entry for entry in check_archive(archive).models[0].manifest.files if entry.name == UNET)
    assert unet.sha256 == sha256_of(models[0][1] / UNET)
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(f"first/{UNET}")
        assert isinstance(stream, io.BufferedReader)
        assert stream.read() == (models[0][1] / UNET).read_bytes()
