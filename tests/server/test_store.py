"""Guards result files: random names, dead on the second of their expiry, nothing else in the folder touched."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.messages import OutputFormat
from server.images.store import NAME_PATTERN, TOMBSTONE_SECONDS, ExpiredFile, FileStore, FullStore, UnknownFile
from tests.server.parts import Clock

LIFETIME_SECONDS = 60.0
QUOTA_BYTES = 200_000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
STRANGER = "A" * 22 + ".png"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def store(folder: Path, clock: Clock) -> FileStore:
    store = FileStore(folder, LIFETIME_SECONDS, QUOTA_BYTES, clock)
    store.open()
    return store


def test_a_saved_file_is_read_back_unchanged(store: FileStore) -> None:
    assert store.read(store.save(PNG)) == PNG


def test_names_match_the_pattern_and_are_never_the_same(store: FileStore) -> None:
    names = [store.save(b"x") for _ in range(200)]
    assert len(set(names)) == 200
    assert all(NAME_PATTERN.fullmatch(name) for name in names)


@pytest.mark.parametrize(("output_format", "extension"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_a_name_ends_as_its_format_does(store: FileStore, output_format: OutputFormat, extension: str) -> None:
    name = store.save(PNG, output_format)
    assert name.endswith(f".{extension}")
    assert NAME_PATTERN.fullmatch(name)
    assert store.read(name) == PNG


def test_files_never_take_more_than_the_quota(store: FileStore, folder: Path) -> None:
    for _ in range(4):
        store.save(b"x" * (QUOTA_BYTES // 4))
    assert not store.has_room()
    with pytest.raises(FullStore):
        store.save(b"x")
    assert sum(path.stat().st_size for path in folder.iterdir()) == QUOTA_BYTES


def test_a_file_beyond_the_quota_is_refused_and_a_smaller_one_still_fits(store: FileStore) -> None:
    with pytest.raises(FullStore):
        store.save(b"x" * (QUOTA_BYTES + 1))
    assert store.has_room()
    store.save(PNG)


def test_what_expired_makes_room_once_it_is_swept(store: FileStore, clock: Clock) -> None:
    store.save(b"x" * QUOTA_BYTES)
    clock.now += LIFETIME_SECONDS
    assert not store.has_room(), "the disk still holds it"
    store.sweep()
    store.sweep()
    assert store.has_room()
    store.save(b"x" * QUOTA_BYTES)


def test_a_file_that_could_not_be_written_takes_no_room(store: FileStore, folder: Path) -> None:
    folder.rmdir()
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            store.save(b"x" * QUOTA_BYTES)
    folder.mkdir()
    store.save(b"x" * QUOTA_BYTES)


def test_a_file_that_nobody_was_told_of_is_deleted_and_gives_its_room_back(store: FileStore, folder: Path) -> None:
    name = store.save(bytes(QUOTA_BYTES))
    store.discard(name)
    store.discard(name)
    assert list(folder.iterdir()) == []
    with pytest.raises(UnknownFile):
        store.read(name)
    assert store.read(store.save(bytes(QUOTA_BYTES)))


def test_many_threads_together_never_take_more_than_the_quota(store: FileStore, folder: Path) -> None:
    def save(_: int) -> bool:
        try:
            store.save(b"x" * 4000)
        except FullStore:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(save, range(100))) == QUOTA_BYTES // 4000
    assert len(list(folder.iterdir())) == QUOTA_BYTES // 4000


def test_a_name_carries_128_random_bits(store: FileStore) -> None:
    assert len(store.save(b"x").removesuffix(".png")) * 6 >= 128


def test_a_file_is_served_until_just_before_its_expiry(store: FileStore, clock: Clock) -> None:
    name = store.save(PNG)
    clock.now += LIFETIME_SECONDS - 0.001
    assert store.read(name) == PNG


@pytest.mark.parametrize("late_seconds", [0.0, 1.0, 3600.0])
def test_a_file_is_dead_from_its_expiry_on_though_nobody_swept(
    store: FileStore, folder: Path, clock: Clock, late_seconds: float
) -> None:
    name = store.save(PNG)
    clock.now += LIFETIME_SECONDS + late_seconds
    with pytest.raises(ExpiredFile):
        store.read(name)
    assert (folder / name).exists()


def test_sweeping_deletes_what_expired_and_only_that(store: FileStore, folder: Path, clock: Clock) -> None:
    old = store.save(b"old")
    clock.now += LIFETIME_SECONDS / 2
    young = store.save(b"young")
    clock.now += LIFETIME_SECONDS / 2
    store.sweep()
    assert [path.name for path in folder.iterdir()] == [young]
    assert store.read(young) == b"young"
    with pytest.raises(ExpiredFile):
        store.read(old)


def test_an_expired_name_is_known_as_expired_for_a_day_and_then_forgotten(store: FileStore, clock: Clock) -> None:
    name = store.save(PNG)
    clock.now += LIFETIME_SECONDS + TOMBSTONE_SECONDS - 1
    store.sweep()
    with pytest.raises(ExpiredFile):
        store.read(name)
    clock.now += 1
    store.sweep()
    with pytest.raises(UnknownFile):
        store.read(name)


def test_sweeping_twice_is_no_error(store: FileStore, folder: Path, clock: Clock) -> None:
    store.save(PNG)
    clock.now += LIFETIME_SECONDS
    store.sweep()
    store.sweep()
    assert list(folder.iterdir()) == []


def test_one_file_that_cannot_be_deleted_does_not_keep_the_others(store: FileStore, folder: Path, clock: Clock) -> None:
    names = [store.save(PNG) for _ in range(3)]
    (folder / names[0]).unlink()
    (folder / names[0]).mkdir()
    clock.now += LIFETIME_SECONDS
    try:
        store.sweep()
    except OSError as error:
        assert error.filename == str(folder / names[0])  # noqa: PT017
    assert [path.name for path in folder.iterdir()] == [names[0]]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x.png",
        STRANGER,
        "../secret.png",
        "..%2fsecret.png",
        "/etc/passwd",
        "A" * 22,
        "A" * 22 + ".PNG",
        "A" * 22 + ".png\n",
        "A" * 22 + ".png/",
        "A" * 21 + "\u00e9.png",
        "A" * 21 + "\uff21.png",
        "A" * 21 + "/.png",
        "A" * 21 + "\0.png",
        "A" * 100_000 + ".png",
    ],
)
def test_a_name_that_was_never_given_is_unknown(store: FileStore, name: str) -> None:
    with pytest.raises(UnknownFile):
        store.read(name)


def test_a_file_that_the_store_did_not_write_is_not_served(store: FileStore, folder: Path) -> None:
    (folder / STRANGER).write_bytes(b"secret")
    with pytest.raises(UnknownFile):
        store.read(STRANGER)


def test_a_file_that_somebody_else_deleted_is_unknown(store: FileStore, folder: Path) -> None:
    name = store.save(PNG)
    (folder / name).unlink()
    with pytest.raises(UnknownFile):
        store.read(name)


def test_opening_makes_the_folder_for_its_owner_alone(store: FileStore, folder: Path) -> None:
    assert store.read(store.save(PNG)) == PNG
    assert folder.stat().st_mode & 0o077 == 0


def test_opening_removes_an_earlier_servers_files_and_nothing_else(folder: Path, clock: Clock) -> None:
    folder.mkdir()
    keep = ["notes.txt", "holiday.png", "A" * 23 + ".png", "A" * 22 + ".jpeg", "." + "A" * 22 + ".png"]
    for name in [*keep, STRANGER]:
        (folder / name).write_bytes(b"x")
    FileStore(folder, LIFETIME_SECONDS, QUOTA_BYTES, clock).open()
    assert sorted(path.name for path in folder.iterdir()) == sorted(keep)


def test_opening_where_a_file_stands_is_an_os_error(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "taken").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        FileStore(tmp_path / "taken", LIFETIME_SECONDS, QUOTA_BYTES, clock).open()


def test_closing_deletes_every_file_of_ours_and_forgets_the_names(store: FileStore, folder: Path) -> None:
    names = [store.save(PNG) for _ in range(3)]
    (folder / "notes.txt").write_bytes(b"x")
    store.close()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    for name in names:
        with pytest.raises(UnknownFile):
            store.read(name)


def test_a_save_without_a_folder_is_an_os_error(store: FileStore, folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        store.save(PNG)


def test_a_file_that_did_not_fit_leaves_nothing_behind(store: FileStore, folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            store.save(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []
    assert store.read(store.save(PNG)) == PNG
