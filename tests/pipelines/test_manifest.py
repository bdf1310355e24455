"""A manifest finds every kind of damage and names its file, is never half written, and names nothing outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipelines.weights.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ManifestProblem,
    Origin,
    decode,
    describe,
    files_of,
    find_damage,
    folder_name,
    manifest_path,
    read_manifest,
    refuse_unsafe_manifest,
    refuse_unsafe_name,
    stamped,
    write_manifest,
)
from pipelines.weights.verify import SDXL_COMPONENTS, WEIGHT_FILES

UNET = "unet/diffusion_pytorch_model.safetensors"
ORIGIN = Origin("https://hub.example/owner/name", "a" * 40, "openrail++")
ROOT = Path(__file__).resolve().parents[2]


def write_model(folder: Path, *, unet_bytes: int = 4096, seed: int = 0) -> Path:
    """A folder in the layout of an SDXL checkpoint, with random weights that fit nothing."""
    classes = {
        name: [library, (known or ("EulerDiscreteScheduler",))[0]] for name, (library, known) in SDXL_COMPONENTS.items()
    }
    random = numpy.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(classes))
    for name in SDXL_COMPONENTS:
        (folder / name).mkdir()
        if name in WEIGHT_FILES:
            count = unet_bytes // 4 if name == "unet" else 256
            tensors = {"weight": random.random(count, dtype=numpy.float32)}
            save_file(tensors, folder / name / WEIGHT_FILES[name])
            (folder / name / "config.json").write_text(json.dumps({"sample_size": 128}))
        else:
            file = "scheduler_config.json" if name == "scheduler" else "vocab.json"
            (folder / name / file).write_text(json.dumps({"a": seed}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for manifests, whose times differ."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }


def flip_bit(path: Path, place: int = -1) -> None:
    """One wrong bit; size and time stay."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "model")
    write_manifest(folder, describe(folder, ORIGIN))
    return folder


def test_a_manifest_is_read_as_it_was_written(model: Path) -> None:
    manifest = read_manifest(model)
    assert manifest == describe(model, ORIGIN)
    assert {entry.name for entry in manifest.files} == set(contents(model))
    assert manifest.size_bytes == sum(map(len, contents(model).values()))
    assert find_damage(model, manifest, "all") == ()


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "kind", "words"),
    [
        (remove, "missing", "is missing"),
        (cut, "truncated", "was cut short"),
        (lengthen, "grown", "has grown"),
        (flip_bit, "changed", "with other bytes"),
    ],
)
@pytest.mark.parametrize("name", ["model_index.json", UNET, "tokenizer/vocab.json"])
def test_every_damage_is_named(model: Path, harm: Callable[[Path], None], kind: str, words: str, name: str) -> None:
    harm(model / name)
    (damage,) = find_damage(model, read_manifest(model), "all")
    assert (damage.kind, damage.name) == (kind, name)
    assert damage.sentence.startswith(str(model / name))
    assert words in damage.sentence


def test_a_file_that_nobody_expects_is_named(model: Path) -> None:
    (model / "unet/more.json").write_text("{}")
    (damage,) = find_damage(model, read_manifest(model))
    assert (damage.kind, damage.name) == ("extra", "unet/more.json")


def test_all_damages_are_named_at_once(model: Path) -> None:
    remove(model / UNET)
    cut(model / "vae/config.json")
    (model / "z.txt").write_text("z")
    assert [damage.kind for damage in find_damage(model, read_manifest(model))] == ["missing", "truncated", "extra"]


def test_a_folder_in_a_files_place_is_no_file(model: Path) -> None:
    replace_by_a_folder(model / UNET)
    (damage,) = find_damage(model, read_manifest(model), "all")
    assert damage.name == UNET


def test_a_component_that_became_a_file_is_missed(model: Path) -> None:
    for path in (model / "vae").iterdir():
        path.unlink()
    (model / "vae").rmdir()
    (model / "vae").write_text("x")
    kinds = {damage.kind for damage in find_damage(model, read_manifest(model))}
    assert kinds == {"missing", "extra"}


def test_the_cheap_check_reads_nothing_that_was_not_touched(model: Path) -> None:
    flip_bit(model / UNET)
    read: list[int] = []
    assert find_damage(model, read_manifest(model), "touched", read.append) == ()
    assert read == []


def test_a_changed_file_that_was_touched_is_found_by_the_cheap_check(model: Path) -> None:
    flip_bit(model / UNET)
    os.utime(model / UNET, (1, 1))
    (damage,) = find_damage(model, read_manifest(model), "touched")
    assert (damage.kind, damage.name) == ("changed", UNET)


def test_a_touched_file_is_a_doubt_until_it_is_read(model: Path) -> None:
    os.utime(model / UNET, (1, 1))
    manifest = read_manifest(model)
    assert [damage.kind for damage in find_damage(model, manifest, "nothing")] == ["touched"]
    assert find_damage(model, manifest, "touched") == ()
    assert find_damage(model, stamped(model, manifest), "nothing") == ()


def test_a_single_file_has_its_manifest_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file({"a": numpy.zeros(8)}, file)
    write_manifest(file, describe(file, ORIGIN))
    assert manifest_path(file) == tmp_path / "style.safetensors.manifest"
    assert find_damage(file, read_manifest(file), "all") == ()
    (tmp_path / "neighbour.safetensors").write_bytes(b"x")
    flip_bit(file)
    assert [damage.kind for damage in find_damage(file, read_manifest(file), "all")] == ["changed"]
    file.unlink()
    assert [damage.kind for damage in find_damage(file, read_manifest(file), "all")] == ["missing"]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(model: Path) -> None:
    before = manifest_path(model).read_bytes()
    # A longer one than may be written: the file size is limited in a process of its own.
    code = (
        "import resource, sys; from pathlib import Path; from pipelines.weights.manifest import *\n"
        "place = Path(sys.argv[1]); manifest = read_manifest(place)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_manifest(place, manifest)\n"
        "except OSError as error: print(error.strerror)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, str(model)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout == "File too large\n"
    assert manifest_path(model).read_bytes() == before
    assert find_damage(model, read_manifest(model)) == ()


def test_whoever_reads_a_manifest_meanwhile_reads_a_whole_one(model: Path) -> None:
    before = manifest_path(model).read_bytes()
    with manifest_path(model).open("rb", buffering=0) as reader:
        head = reader.read(10)
        write_manifest(model, describe(model, Origin()))
        assert head + reader.read() == before
    assert read_manifest(model).origin == Origin()


def test_without_a_manifest_it_is_missed(tmp_path: Path) -> None:
    with pytest.raises(ManifestProblem, match=r"safelight\.manifest is missing"):
        read_manifest(write_model(tmp_path / "model"))


GOOD = msgspec.json.encode(Manifest((FileEntry("a/b.json", 2, "0" * 64),)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        GOOD[:-1],
        GOOD.replace(b'"format":1', b'"format":2'),
        GOOD.replace(b"0" * 64, b"0" * 63),
        GOOD.replace(b"0" * 64, b"0" * 64 + b"\\n"),
        GOOD.replace(b":2,", b":-2,"),
        GOOD.replace(b":2,", b":true,"),
        GOOD.replace(b":2,", b":" + b"9" * 5000 + b","),
        GOOD.replace(b'"name"', b'"nome"'),
        GOOD + b" " * (16 * 1024 * 1024),
        b'{"files":' * 100_000,
        b"\xff" + GOOD,
    ],
)
def test_a_damaged_manifest_is_a_problem(model: Path, content: bytes) -> None:
    manifest_path(model).write_bytes(content)
    with pytest.raises(ManifestProblem, match=str(manifest_path(model))):
        read_manifest(model)


@settings(max_examples=200, deadline=None, database=None)
@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_is_a_manifest_or_a_problem(place: int, byte: int) -> None:
    content = bytearray(GOOD)
    content[place] = byte
    with contextlib.suppress(ManifestProblem):
        (entry,) = decode(bytes(content), Manifest, "it").files
        assert entry.size_bytes >= 0
        assert len(entry.sha256) == 64


@pytest.mark.parametrize(
    "name",
    ["../x.json", "/etc/passwd", "a/../../x", "a//b", "./a", "a/.", "", "a\\..\\b", "a\nb", "a\0b", "\udcff.json", "/"],
)
def test_a_name_that_could_lead_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ManifestProblem, match="not allowed"):
        refuse_unsafe_name(name)


@pytest.mark.parametrize("name", ["a.py", "unet/x.BIN", "m.ckpt", "x.pickle", "y.pt"])
def test_a_name_of_what_can_hold_code_is_refused(name: str) -> None:
    with pytest.raises(ManifestProblem, match="can hold code"):
        refuse_unsafe_name(name)


@settings(max_examples=300, deadline=None, database=None)
@given(name=st.lists(st.sampled_from(["..", ".", "", "a", "/", "\\", "b.json", "\0", "~"]), max_size=6).map("/".join))
def test_a_name_that_is_allowed_stays_in_the_folder(name: str) -> None:
    try:
        refuse_unsafe_name(name)
    except ManifestProblem:
        return
    assert Path(os.path.normpath(f"/models/x/{name}")).is_relative_to("/models/x")
    assert os.path.normpath(f"/models/x/{name}") == f"/models/x/{name}"


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b")])
def test_two_files_in_one_place_are_refused(first: str, second: str) -> None:
    with pytest.raises(ManifestProblem, match=r"twice|as a file and as a folder"):
        refuse_unsafe_manifest(Manifest(tuple(FileEntry(name, 1, "0" * 64) for name in (first, second))))


def test_a_link_that_stays_inside_is_described_as_a_file(model: Path) -> None:
    (model / UNET).rename(model / "unet/real.safetensors")
    (model / UNET).symlink_to("real.safetensors")
    assert files_of(model)[UNET].read_bytes() == (model / "unet/real.safetensors").read_bytes()


@pytest.mark.parametrize("target", ["/etc/passwd", "nowhere", "link", "..", "unet"])
def test_other_links_are_refused_and_named(model: Path, target: str) -> None:
    (model / "link").symlink_to(target)
    with pytest.raises(ManifestProblem, match=f"{model / 'link'} is a link"):
        describe(model, ORIGIN)
    assert [damage.kind for damage in find_damage(model, read_manifest(model))] == ["unreadable"]


def test_a_pipe_is_refused_and_not_waited_for(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(ManifestProblem, match="neither a file nor a folder"):
        describe(model, ORIGIN)


def test_an_empty_folder_and_no_folder_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ManifestProblem, match="holds no files"):
        describe(tmp_path, ORIGIN)
    with pytest.raises(ManifestProblem, match="does not exist"):
        describe(tmp_path / "nowhere", ORIGIN)


@pytest.mark.parametrize("model_id", ["", "../x", "/x", ".x", "a b", "a\n", "x" * 101])
def test_what_is_no_id_names_no_folder(model_id: str) -> None:
    with pytest.raises(ManifestProblem, match="no model id"):
        folder_name(model_id)


@settings(max_examples=200, deadline=None, database=None)
@given(model_id=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._/-]{0,99}\Z"))
def test_every_id_names_one_folder(model_id: str) -> None:
    assert "/" not in folder_name(model_id)
    assert not folder_name(model_id).startswith(".")
