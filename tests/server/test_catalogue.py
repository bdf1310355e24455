"""Guards models.yaml: what loads is consistent, and every mistake is a sentence with its line, key and suggestion."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from pipelines.messages import SAMPLERS_BY_FAMILY, FamilyName, SamplerName
from server.core.catalogue import Catalogue
from server.core.catalogue_file import CatalogueProblem, load_catalogue
from server.core.model_entry import parse_size
from server.core.request import Size
from server.core.settings import DEFAULT_CATALOGUE

ENTRY = """\
default_model: first
models:
  first:
    family: sdxl
    source: weights/first
"""
GOOD = """\
# Comments do not shift lines.
default_model: first
default_aliases: [dall-e-3, "gpt-image-*"]
models:
  first:
    family: sdxl
    source: weights/first
    description: The first.
    defaults: {size: 512x512, steps: 12, guidance_scale: 2, sampler: euler}
    limits: {min_side_px: 256, max_side_px: 1024, side_multiple_px: 64, max_pixels: 786432, max_n: 4, max_steps: 50}
    aliases: [one, "uno-*"]
  Org/second.v2:
    family: sdxl
    source: /models/second
"""
OTHERS_NAMES = [
    "titan",
    "amazon.titan-image-generator-v1",
    "amazon.titan-image-generator-v2:0",
    "dall-e-2",
    "dall-e-3",
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "gpt-image-2",
    "gpt-image-2.5-flare",
    "gpt-image-2.6-sunburst",
    "chatgpt-image-latest",
]


def load(folder: Path, text: str | bytes) -> Catalogue:
    path = folder / "models.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_catalogue(path)


def problems_of(folder: Path, text: str | bytes) -> list[str]:
    """The sentences, without the path that each must begin with."""
    with pytest.raises(CatalogueProblem) as caught:
        load(folder, text)
    prefix = f"{folder / 'models.yaml'}:"
    assert caught.value.problems
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def test_a_good_file_gives_its_models_in_order(tmp_path: Path) -> None:
    catalogue = load(tmp_path, GOOD)
    assert catalogue.default_model == "first"
    assert list(catalogue.models) == ["first", "Org/second.v2"]
    first = catalogue.models["first"]
    assert (first.defaults.size, first.defaults.steps, first.defaults.sampler) == ("512x512", 12, "euler")
    assert (first.limits.max_n, first.limits.max_side_px, first.limits.max_pixels) == (4, 1024, 786432)


def test_what_is_left_out_gets_its_default(tmp_path: Path) -> None:
    second = load(tmp_path, GOOD).models["Org/second.v2"]
    assert (second.defaults.sampler, second.defaults.strength) == ("checkpoint", 0.8)
    assert second.limits.allows(parse_size(second.defaults.size))
    assert second.aliases == ()


def test_folders_are_absolute_and_relative_to_the_file(tmp_path: Path) -> None:
    assert [(spec.id, spec.family, spec.folder) for spec in load(tmp_path, GOOD).specs()] == [
        ("first", "sdxl", str(tmp_path.resolve() / "weights/first")),
        ("Org/second.v2", "sdxl", "/models/second"),
    ]


def test_all_places_of_a_model_are_absolute_and_the_name_of_a_configuration_stays(tmp_path: Path) -> None:
    pieces = "    rest: base\n    variant: fp16\n    config: sd21-768\n    parts: {vae: vaes/better.safetensors}\n"
    (spec,) = load(tmp_path, ENTRY.replace("weights/first", "first.safetensors") + pieces).specs()
    assert (spec.folder, spec.rest) == (str(tmp_path / "first.safetensors"), str(tmp_path / "base"))
    assert (spec.config, spec.variant) == ("sd21-768", "fp16")
    assert spec.parts == {"vae": str(tmp_path / "vaes" / "better.safetensors")}


def test_a_configuration_that_is_written_with_a_slash_is_a_folder(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, ENTRY + "    config: ./mine\n").specs()
    assert spec.config == str(tmp_path / "mine")


def test_a_tilde_in_a_source_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (spec,) = load(tmp_path, ENTRY.replace("weights/first", "~/first")).specs()
    assert spec.folder == str(tmp_path.resolve() / "home/first")


@pytest.mark.parametrize("source", ["~nosuchuser/first", '"x\\0y"'])
def test_a_source_that_is_no_path_is_reported_or_left_to_the_check_of_files(tmp_path: Path, source: str) -> None:
    try:
        specs = load(tmp_path, ENTRY.replace("weights/first", source)).specs()
    except CatalogueProblem as problem:
        assert ":5: models.first.source: " in str(problem)  # noqa: PT017
    else:
        assert not Path(specs[0].folder).is_dir()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (None, "first"),
        ("first", "first"),
        ("Org/second.v2", "Org/second.v2"),
        ("one", "first"),
        ("uno-", "first"),
        ("uno-due", "first"),
        ("dall-e-3", "first"),
        ("gpt-image-9", "first"),
    ],
)
def test_a_name_means_its_model(tmp_path: Path, name: str | None, model: str) -> None:
    assert load(tmp_path, GOOD).resolve(name) == model


@pytest.mark.parametrize(
    "name", ["", "First", "ONE", "uno", "xuno-1", "dall-e-2", "second.v2", "../first", "*", "first\n", "x" * 10_240]
)
def test_any_other_name_means_nothing(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, GOOD).resolve(name) is None


def test_an_entrys_own_alias_wins_over_the_default_aliases(tmp_path: Path) -> None:
    text = GOOD + "    aliases: [dall-e-3]\n"
    assert load(tmp_path, text).resolve("dall-e-3") == "Org/second.v2"


def test_a_models_id_wins_over_anothers_alias(tmp_path: Path) -> None:
    text = GOOD.replace("[one,", "[Org/second.v2,")
    assert load(tmp_path, text).resolve("Org/second.v2") == "Org/second.v2"


def test_names_are_ids_first_then_plain_aliases_each_once(tmp_path: Path) -> None:
    text = GOOD + "    aliases: [one, two]\n"
    assert load(tmp_path, text).names() == ["first", "Org/second.v2", "one", "two", "dall-e-3"]


def test_every_name_that_is_listed_resolves(tmp_path: Path) -> None:
    catalogue = load(tmp_path, ENTRY + "    aliases: [one, 'one[fast]', 'why?']\n")
    assert [name for name in catalogue.names() if catalogue.resolve(name) is None] == []


def test_only_the_star_is_a_pattern_in_aliases(tmp_path: Path) -> None:
    catalogue = load(tmp_path, ENTRY + "    aliases: ['one[fast]', 'why?']\n")
    assert [catalogue.resolve(name) for name in ("onef", "whyx")] == [None, None]


def test_a_loaded_catalogue_cannot_be_changed(tmp_path: Path) -> None:
    catalogue = load(tmp_path, GOOD)
    catalogue.models.clear()
    assert list(catalogue.models) == ["first", "Org/second.v2"]


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CatalogueProblem, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_catalogue(tmp_path / "nowhere.yaml")


def test_a_folder_in_its_place_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CatalogueProblem, match="cannot be read: Is a directory"):
        load_catalogue(tmp_path)


@pytest.mark.parametrize("content", [b"default_model: \xff\n", GOOD.encode("utf-16"), b"\xc0\xaf"])
def test_a_file_that_is_not_utf8_is_reported(tmp_path: Path, content: bytes) -> None:
    assert problems_of(tmp_path, content) == [" is not UTF-8 text"]


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n", "- first\n", "first\n", "3\n"])
def test_a_file_without_keys_is_reported_in_plain_words(tmp_path: Path, content: str) -> None:
    (problem,) = problems_of(tmp_path, content)
    assert problem.partition(" ")[0].rstrip(":").isdecimal()
    assert "_File" not in problem


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("default_model: first\nmodels: [\n", 3),
        ("default_model: first\n\tmodels: x\n", 2),
        ("default_model: 'first\n", 2),
        ("default_model: first\nmodels: *nowhere\n", 2),
        ("default_model: first\n---\ndefault_model: second\n", 2),
        ("? [a]\n: b\n", 1),
    ],
)
def test_bad_yaml_is_reported_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    (problem,) = problems_of(tmp_path, text)
    assert problem.startswith(f"{line}: not valid YAML: ")


@pytest.mark.parametrize(
    "text",
    [
        "default_model: 2001-99-99\n",
        f"default_model: {'9' * 5000}\n",
        "default_model: !!int abc\n",
        "default_model: !!timestamp abc\n",
        "default_model: !!python/object/apply:os.getcwd []\n",
        "default_model: \x01\n",
        "models: &a\n  first: *a\n",
        "models: " + "[" * 3000,
    ],
    ids=["date", "giant integer", "no integer", "no timestamp", "python", "control", "cycle", "depth"],
)
def test_yaml_that_no_catalogue_holds_is_reported_not_a_crash(tmp_path: Path, text: str) -> None:
    assert problems_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ENTRY + "default_modle: x\n", "6: default_modle: unknown key. Did you mean 'default_model'?"),
        (ENTRY + "zzzzzz: x\n", "6: zzzzzz: unknown key."),
        (ENTRY + "    alias: [x]\n", "6: models.first.alias: unknown key. Did you mean 'aliases'?"),
        (
            ENTRY + "    limits:\n      max_n: 3\n      max_step: 9\n",
            "8: models.first.limits.max_step: unknown key. Did you mean 'max_steps'?",
        ),
        (
            ENTRY + "    defaults:\n      guidance: 9\n",
            "7: models.first.defaults.guidance: unknown key. Did you mean 'guidance_scale'?",
        ),
        (
            ENTRY.replace("first", "limits") + "    familiy: sdxl\n",
            "6: models.limits.familiy: unknown key. Did you mean 'family'?",
        ),
    ],
)
def test_an_unknown_key_is_reported_with_its_line_and_a_suggestion(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, text) == [problem]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (ENTRY.replace("first\nmodels", "3\nmodels"), "1: default_model: "),
        (ENTRY.replace("family: sdxl", "family: 1"), "4: models.first.family: "),
        (ENTRY.replace("weights/first", "[a]"), "5: models.first.source: "),
        (ENTRY.replace("weights/first", '""'), "5: models.first.source: "),
        (ENTRY.replace("weights/first", ""), "5: models.first.source: "),
        (ENTRY + "    aliases: one\n", "6: models.first.aliases: "),
        (ENTRY + "    aliases:\n      - one\n      - 1.5\n", "8: models.first.aliases.1: "),
        (ENTRY + "    limits: 3\n", "6: models.first.limits: "),
        (ENTRY + "    limits: {max_n: 11}\n", "6: models.first.limits.max_n: "),
        (ENTRY + "    limits: {max_n: '4'}\n", "6: models.first.limits.max_n: "),
        (ENTRY + "    limits: {max_n: true}\n", "6: models.first.limits.max_n: "),
        (ENTRY + "    limits: {max_n: 0}\n", "6: models.first.limits.max_n: "),
        (ENTRY + "    limits: {max_side_px: 99999}\n", "6: models.first.limits.max_side_px: "),
        (ENTRY + "    limits: {max_guidance_scale: .nan}\n", "6: models.first.limits.max_guidance_scale: "),
        (ENTRY + "    limits: {max_guidance_scale: .inf}\n", "6: models.first.limits.max_guidance_scale: "),
        (ENTRY + "    defaults: {steps: 30.0}\n", "6: models.first.defaults.steps: "),
        (ENTRY + "    defaults: {steps: 0}\n", "6: models.first.defaults.steps: "),
        (ENTRY + "    defaults: {size: huge}\n", "6: models.first.defaults.size: "),
        (ENTRY + "    defaults: {size: auto}\n", "6: models.first.defaults.size: "),
        (ENTRY + "    defaults: {guidance_scale: -1}\n", "6: models.first.defaults.guidance_scale: "),
        (ENTRY + "    defaults: {strength: 0}\n", "6: models.first.defaults.strength: "),
        (ENTRY + "    defaults: {strength: 1.1}\n", "6: models.first.defaults.strength: "),
        (ENTRY + "    defaults: {strength: .nan}\n", "6: models.first.defaults.strength: "),
        (ENTRY + "    defaults: {strength: '0.5'}\n", "6: models.first.defaults.strength: "),
        (ENTRY + "    limits: {max_pixels: 60000000}\n", "6: models.first.limits.max_pixels: "),
        ("default_model: first\nmodels: {}\n", "2: models: "),
        ("default_model: first\nmodels: [first]\n", "2: models: "),
        ("default_model: first\nmodels:\n  first:\n", "3: models.first: "),
        ("default_model: first\nmodels:\n  1: {family: sdxl, source: x}\n", "3: models.1: "),
        ("default_model: a\nmodels:\n  ../a: {family: sdxl, source: x}\n", "3: models.../a: "),
    ],
)
def test_a_wrong_value_is_reported_with_its_line_and_key(tmp_path: Path, text: str, place: str) -> None:
    assert any(problem.startswith(place) for problem in problems_of(tmp_path, text))


def test_a_missing_key_is_reported_at_its_entry(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "default_model: first\nmodels:\n  first:\n    family: sdxl\n")
    assert problem.startswith("3: models.first: needs either source")


def test_an_unknown_family_is_reported_with_the_nearest_known_one(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, ENTRY.replace("sdxl", "sdlx"))
    assert problem.startswith("4: models.first.family: ")
    assert problem.endswith("Did you mean 'sdxl'?")


def test_an_unknown_sampler_is_reported_with_the_nearest_known_one(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, ENTRY + "    defaults: {sampler: dpmpp_2n}\n")
    assert problem.startswith("6: models.first.defaults.sampler: ")
    assert problem.endswith("Did you mean 'dpmpp_2m'?")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ENTRY + "    source: other\n", "6: source: stands here for the second time"),
        (ENTRY + "default_model: first\n", "6: default_model: stands here for the second time"),
        (ENTRY + "  first: {}\n", "6: first: stands here for the second time"),
        (ENTRY + "    limits: {max_n: 1, max_n: 2}\n", "6: max_n: stands here for the second time"),
    ],
)
def test_a_key_that_stands_there_twice_is_reported(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, text) == [problem]


def test_a_default_model_that_does_not_exist_is_reported_at_its_line(tmp_path: Path) -> None:
    text = "models:\n  first:\n    family: sdxl\n    source: x\ndefault_model: frist\n"
    (problem,) = problems_of(tmp_path, text)
    assert problem == "5: default_model: 'frist' is none of the models. Did you mean 'first'?"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("    defaults: {size: 4096x4096}\n", "the default size 4096x4096"),
        ("    defaults: {size: 1000x1024}\n    limits: {side_multiple_px: 16}\n", "the default size 1000x1024"),
        ("    limits: {max_pixels: 65536}\n", "the default size 1024x1024"),
        ("    limits: {min_side_px: 2000, max_side_px: 1000}\n", "the default size 1024x1024"),
        ("    defaults: {steps: 60}\n    limits: {max_steps: 50}\n", "60 steps"),
        ("    defaults: {guidance_scale: 9}\n    limits: {max_guidance_scale: 8}\n", "guidance_scale"),
        ("    defaults: {sampler: flow_euler}\n", "the sampler 'flow_euler' cannot draw the family sdxl"),
        ("    defaults: {sampler: lcm, steps: 51}\n", "'lcm' takes at most 50 steps, not 51"),
        ("    presets: {quality: {hd: {steps: 101}}}\n", "the quality 'hd' takes more steps than max_steps 100"),
        ("    presets: {quality: {low: {sampler: flow_euler}}}\n", "the sampler 'flow_euler' cannot draw"),
        ("    presets: {quality: {hd: {sampler: lcm, steps: 51}}}\n", "'lcm' takes at most 50 steps, not 51"),
        ("    presets: {style: {vivid: {guidance_scale: 31}}}\n", "guidance_scale of a preset"),
    ],
)
def test_defaults_outside_the_limits_are_reported_at_their_entry(tmp_path: Path, values: str, words: str) -> None:
    (problem,) = problems_of(tmp_path, ENTRY + values)
    assert problem.startswith("3: models.first: ")
    assert words in problem


def test_a_style_must_hold_the_prompt_once(tmp_path: Path) -> None:
    for prompt in ("vivid", "{prompt}, {prompt}"):
        (problem,) = problems_of(tmp_path, ENTRY + f"    presets: {{style: {{vivid: {{prompt: '{prompt}'}}}}}}\n")
        assert "must hold {prompt} exactly once" in problem


@pytest.mark.parametrize(
    ("presets", "problem"),
    [
        ("{qualty: {}}", "models.first.presets.qualty: unknown key. Did you mean 'quality'?"),
        ("{quality: {hd: {step: 3}}}", "models.first.presets.quality.hd.step: unknown key. Did you mean 'steps'?"),
        ("{style: {vivid: {promt: x}}}", "models.first.presets.style.vivid.promt: unknown key. Did you mean 'prompt'?"),
    ],
)
def test_a_mistake_in_a_preset_is_reported_with_what_was_meant(tmp_path: Path, presets: str, problem: str) -> None:
    assert problems_of(tmp_path, ENTRY + f"    presets: {presets}\n") == [f"6: {problem}"]


@pytest.mark.parametrize("family", get_args(FamilyName))
def test_every_family_loads_with_each_of_its_samplers_and_no_other(tmp_path: Path, family: FamilyName) -> None:
    for sampler in get_args(SamplerName):
        text = ENTRY.replace("sdxl", family) + f"    defaults: {{sampler: {sampler}}}\n"
        if sampler in SAMPLERS_BY_FAMILY[family]:
            assert load(tmp_path, text).specs()[0].family == family
            continue
        (problem,) = problems_of(tmp_path, text)
        assert problem.startswith(f"3: models.first: the sampler '{sampler}' cannot draw the family {family}")
        assert all(f"'{name}'" in problem for name in SAMPLERS_BY_FAMILY[family])


BACKENDS = "backends:\n  openai:\n    kind: openai\n    models: {gpt-image-2: {}}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            BACKENDS + "names:\n  near: {}\n  far:\n    route:\n      - openai:gpt-image-3\n",
            "14: names.far.route.0: 'openai' has no model 'gpt-image-3'. Did you mean 'gpt-image-2'?",
        ),
        (
            BACKENDS + "names:\n  far: {route: [local:first, opnai:gpt-image-2]}\n",
            "11: names.far.route.1: 'opnai' is none of the backends. Did you mean 'openai'?",
        ),
        (
            BACKENDS + "names:\n  far: {route: [local:first, local:first]}\n",
            "11: names.far.route.1: 'local:first' stands in the route twice",
        ),
        ("names:\n  far: {route: [first]}\n", "7: names.far.route.0: a target is written BACKEND:MODEL"),
        ("names:\n  far: {rout: []}\n", "7: names.far.rout: unknown key. Did you mean 'route'?"),
        (BACKENDS.replace("{gpt-image-2: {}}", '{"gpt\\r\\nimage": {}}'), "9: backends.openai.models.gpt"),
        (BACKENDS.replace("gpt-image-2", "gemälde"), "9: backends.openai.models.gemälde"),
        (BACKENDS.replace("gpt-image-2", '"two words"'), "9: backends.openai.models.two words"),
        (BACKENDS.replace("gpt-image-2", "a" * 101), "9: backends.openai.models.a"),
    ],
)
def test_a_mistake_in_a_provider_or_a_route_is_reported_at_its_own_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    (found,) = problems_of(tmp_path, ENTRY + text)
    assert found.startswith(problem)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    text = ENTRY + "    limits: {max_n: 99, max_step: 3}\n    colour: red\nfoo: bar\n"
    keys = {problem.split(": ")[1] for problem in problems_of(tmp_path, text)}
    assert keys == {"models.first.limits.max_n", "models.first.limits.max_step", "models.first.colour", "foo"}


@pytest.mark.parametrize(("text", "size"), [("1x1", Size(1, 1)), ("1024x1792", Size(1024, 1792))])
def test_a_size_is_read(text: str, size: Size) -> None:
    assert parse_size(text) == size
    assert str(size) == text


@pytest.mark.parametrize(
    "text",
    ["", "x", "512x", "x512", "512X512", "0x0", "0512x512", "-1x5", " 512x512", "512x512\n", "123456x1", "1x1x1"],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        parse_size(text)


def test_digits_of_other_scripts_are_no_size() -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        parse_size("\uff15\uff11\uff12x512")


def test_every_size_named_in_a_refusal_is_allowed(tmp_path: Path) -> None:
    limits = load(tmp_path, GOOD).models["first"].limits
    named = [word.strip("',") for word in limits.describe_sizes().split() if word.startswith("'")]
    assert named[-1] == "auto"
    assert "256x256" in named
    assert "1024x1024" not in named
    assert all(limits.allows(parse_size(name)) for name in named[:-1])


@pytest.mark.parametrize("name", OTHERS_NAMES)
def test_other_peoples_names_mean_the_default_model_of_our_own_file(name: str) -> None:
    catalogue = load_catalogue(DEFAULT_CATALOGUE)
    assert catalogue.resolve(name) == catalogue.default_model


def test_our_own_file_draws_openais_sizes() -> None:
    catalogue = load_catalogue(DEFAULT_CATALOGUE)
    limits = catalogue.models[catalogue.default_model].limits
    sizes = ["256x256", "512x512", "1024x1024", "1024x1792", "1792x1024", "1024x1536", "1536x1024"]
    assert [size for size in sizes if not limits.allows(parse_size(size))] == []
