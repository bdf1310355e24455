"""Says which files a model is made of: where each component's weights, configuration and tokenizer lie, and why there.

Knows paths, and the forms that people keep models in; reads no tensors and imports no torch.
Invariant: every component comes from exactly one place, or the problem says what is missing and what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.messages import ControlKind, FamilyName, ModelSpec
from pipelines.weights.files import CheckpointProblem, read_json, tensor_names
from pipelines.weights.original_names import GUIDANCE, prefix_of, recognised, sampler_changes
from pipelines.weights.published import PUBLISHED, published_folder

Classes = dict[str, tuple[str, tuple[str, ...]]]
CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# What a family's model_index.json must name: component -> (library, class).
SDXL_COMPONENTS: Classes = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
    "tokenizer": ("transformers", CLIP_TOKENIZERS),
    "tokenizer_2": ("transformers", CLIP_TOKENIZERS),
    "scheduler": ("diffusers", ()),
}
SD21_COMPONENTS: Classes = {
    name: SDXL_COMPONENTS[name] for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
}
FLUX_COMPONENTS: Classes = {
    "transformer": ("diffusers", ("FluxTransformer2DModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("T5EncoderModel",)),
    "tokenizer": ("transformers", CLIP_TOKENIZERS),
    "tokenizer_2": ("transformers", ("T5Tokenizer", "T5TokenizerFast")),
    "scheduler": ("diffusers", ()),
}
COMPONENTS_BY_FAMILY: dict[FamilyName, Classes] = {
    "sdxl": SDXL_COMPONENTS,
    "sd21": SD21_COMPONENTS,
    "flux": FLUX_COMPONENTS,
}
DENOISER_STEM = "diffusion_pytorch_model"
# How a component's weight files are called in a folder, before variant and suffix.
STEMS = {
    "unet": DENOISER_STEM,
    "transformer": DENOISER_STEM,
    "vae": DENOISER_STEM,
    "text_encoder": "model",
    "text_encoder_2": "model",
    "safety_checker": "model",
}
# Which variant is taken where an entry names none and there is no plain file.
PREFERRED_VARIANTS = ("", "fp16", "bf16")
FILE_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Source:
    """What a model entry names.

    path: a diffusers folder, or a single .safetensors file. rest: a diffusers folder for what `path` does not hold.
    config: the configuration of weights in single files: the name of a published one, or a folder laid out like one.
    variant: which variant of the folder's weights, such as fp16. parts: component -> its own file or folder.
    pulled_as: the id under which `safelight models pull` puts it there; None where nobody fetches it. controls: hint ->
    the folder of the ControlNet that reads it, or None where the checkpoint itself was made for it.
    """

    path: Path
    rest: Path | None = None
    config: str | None = None
    variant: str | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)
    pulled_as: str | None = None
    controls: Mapping[ControlKind, Path | None] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return self.path.suffix == FILE_SUFFIX and self.path.is_file()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All folders that the entry names for weights and tokenizers."""
        named = (self.path, *([] if self.rest is None else [self.rest]), *self.parts.values())
        return tuple(path for path in named if path.is_dir())


@dataclass(frozen=True, slots=True)
class Weights:
    """One component's weights. prefix: what stands before its tensors' names in the files. index: of shards, which
    says what is in which. why: these files and no others."""

    name: str
    config: Path
    files: tuple[Path, ...]
    prefix: str
    why: str
    index: Path | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is. sampler_changes: what the weights themselves say against their scheduler's configuration."""

    family: FamilyName
    index: Path
    scheduler: Path
    weights: dict[str, Weights]
    tokenizers: dict[str, Path]
    sampler_changes: dict[str, object]

    def files(self) -> list[Path]:
        """All that decides what is drawn: weights, configurations and vocabularies."""
        weights = [file for part in self.weights.values() for file in (part.config, part.index, *part.files)]
        vocabularies = [file for folder in self.tokenizers.values() for file in _listed(folder) if file.is_file()]
        return sorted({self.index, self.scheduler, *vocabularies, *(file for file in weights if file is not None)})


def source_of(spec: ModelSpec) -> Source:
    """What a worker was told of a model, as paths."""
    return Source(
        Path(spec.folder),
        None if spec.rest is None else Path(spec.rest),
        spec.config,
        spec.variant,
        {name: Path(path) for name, path in spec.parts.items()},
        spec.id if spec.is_pulled else None,
        {kind: None if path is None else Path(path) for kind, path in spec.controls.items()},
    )


def arrange(source: Source, family: FamilyName) -> Layout:
    """Decide where each component comes from. Raises CheckpointProblem when one has no place, or two."""
    names = tensor_names(source.path) if source.is_file else frozenset()
    if not (source.is_file or source.path.is_dir()):
        kind = "file" if source.path.suffix == FILE_SUFFIX else "folder"
        remedy = f" yet; run: safelight models pull {source.pulled_as}" if source.pulled_as else ""
        raise CheckpointProblem(f"the {kind} {source.path} does not exist{remedy}")
    _refuse_unknown_parts(source, family)
    if source.is_file:
        _refuse_other_family(source.path, family, names)
    return _Arranger(source, family, names).layout()


class _Arranger:
    """Looks in one order for everything: the entry's own part, the source, the rest."""

    def __init__(self, source: Source, family: FamilyName, names: frozenset[str]) -> None:
        self._source, self._family, self._names = source, family, names
        self._roots = _configuration_roots(source, family, names)
        self._folders = [] if source.is_file else [source.path]
        self._folders += [] if source.rest is None else [source.rest]

    def layout(self) -> Layout:
        components = COMPONENTS_BY_FAMILY[self._family]
        return Layout(
            self._family,
            self._roots[0] / "model_index.json",
            self._roots[0] / "scheduler" / "scheduler_config.json",
            {name: self._weights(name) for name in components if name in STEMS},
            {name: self._tokenizer(name) for name in components if name.startswith("tokenizer")},
            sampler_changes(self._names),
        )

    def _weights(self, name: str) -> Weights:
        if name in self._source.parts:
            return self._from_part(name, self._source.parts[name])
        prefix = prefix_of(self._family, name, self._names)
        if prefix is not None:
            return self._in_file(name, self._source.path, prefix, "in the single file")
        folder = self._folder_with(name)
        if folder is None:
            raise CheckpointProblem(
                f"{self._source.path} holds no {name}: name a file or folder for it under parts, or a diffusers folder "
                "that has one under rest"
            )
        variant = self._source.variant if folder == self._source.path else None
        return _in_folder(name, folder / name, variant)

    def _tokenizer(self, name: str) -> Path:
        if name in self._source.parts:
            part = self._source.parts[name]
            return part / name if (part / name).is_dir() else part
        folder = self._folder_with(name)
        if folder is None:
            raise CheckpointProblem(
                f"{self._source.path} is a single file, which holds no {name}, and vocabularies do not ship with "
                f"Safelight: name a diffusers folder that has {name}/ under rest, or the tokenizer's folder under parts"
            )
        return folder / name

    def _folder_with(self, name: str) -> Path | None:
        """The first folder that has the component; with no other place to look, the one where it is missed."""
        found = next((folder for folder in self._folders if (folder / name).exists()), None)
        return found or next(iter(self._folders), None)

    def _from_part(self, name: str, path: Path) -> Weights:
        if path.is_dir():
            return _in_folder(name, path if (path / "config.json").exists() else path / name, None)
        if path.suffix != FILE_SUFFIX:
            raise CheckpointProblem(f"{path}, named for the {name}, is neither a folder nor a {FILE_SUFFIX} file")
        prefix = prefix_of(self._family, name, tensor_names(path), is_alone=True)
        return self._in_file(name, path, prefix or "", "the entry names this file")

    def _in_file(self, name: str, path: Path, prefix: str, why: str) -> Weights:
        configs = [root / name / "config.json" for root in self._roots]
        config = next((config for config in configs if config.exists()), configs[0])
        return Weights(name, config, (path,), prefix, why)


def _refuse_unknown_parts(source: Source, family: FamilyName) -> None:
    known = [name for name in COMPONENTS_BY_FAMILY[family] if name != "scheduler"]
    for name in source.parts:
        if name not in known:
            raise CheckpointProblem(f"parts names '{name}'; the family {family} has {', '.join(known)}")


def _refuse_other_family(path: Path, family: FamilyName, names: frozenset[str]) -> None:
    found = recognised(names)
    if found.family != family:
        raise CheckpointProblem(f"{path} holds {found.description}, which the family {family} cannot draw with")


def _configuration_roots(source: Source, family: FamilyName, names: frozenset[str]) -> list[Path]:
    """Folders with configurations, in the order in which they are asked."""
    rest = [] if source.rest is None else [source.rest]
    named = [] if source.config is None else [_named_configuration(source.config)]
    if not source.is_file:
        return [source.path, *named, *rest]
    if named:
        return [*named, *rest]
    if family == "flux":
        # The rest is often schnell's, whose sampler is wrong for dev; the file itself says which of both it is.
        is_dev = any(GUIDANCE in name for name in names)
        return [published_folder("flux-dev" if is_dev else "flux-schnell"), *rest]
    if rest:
        return rest
    if family == "sdxl":
        return [published_folder("sdxl-base")]
    raise CheckpointProblem(
        f"{source.path} does not say whether it predicts velocity or noise: write config: sd21-768 or config: sd21-base"
    )


def weights_in(folder: Path, name: str) -> Weights:
    """Those of a component that lies in a folder of its own. Raises CheckpointProblem when the choice is not clear."""
    return _in_folder(name, folder, None)


def _named_configuration(name: str) -> Path:
    if name in PUBLISHED:
        return published_folder(name)
    if not Path(name).is_dir():
        raise CheckpointProblem(f"config '{name}' is neither a folder nor one of {', '.join(PUBLISHED)}")
    return Path(name)


def _in_folder(name: str, folder: Path, variant: str | None) -> Weights:
    """The weights of one component's folder. Raises CheckpointProblem when the choice is not clear."""
    stem = STEMS.get(name, DENOISER_STEM)
    forms = _forms(folder, stem)
    chosen = _choose_variant(folder, variant, sorted(forms)) if forms or variant else ""
    found = forms.get(chosen, [folder / (stem + FILE_SUFFIX)])
    if len(found) > 1:
        both = " and ".join(sorted(path.name for path in found))
        raise CheckpointProblem(f"{folder} holds {both}, and only one of them can be meant: remove the other")
    index = None if found[0].suffix == FILE_SUFFIX else found[0]
    files = (found[0],) if index is None else _shards(index)
    return Weights(name, folder / "config.json", files, "", _reason(chosen, variant, len(files)), index)


def _choose_variant(folder: Path, variant: str | None, there: list[str]) -> str:
    if variant is not None:
        if variant not in there:
            have = ", ".join(one or "the plain one" for one in there) or "none"
            raise CheckpointProblem(f"{folder} has no variant '{variant}' of its weights; there is: {have}")
        return variant
    chosen = next((one for one in PREFERRED_VARIANTS if one in there), None)
    if chosen is None and len(there) > 1:
        raise CheckpointProblem(f"{folder} has its weights as {', '.join(there)}: write which one under variant")
    return there[0] if chosen is None else chosen


def _reason(chosen: str, asked: str | None, file_count: int) -> str:
    shards = f", in {file_count} shards" if file_count > 1 else ""
    if not chosen:
        return f"the plain weights{shards}"
    return f"the variant {chosen}{shards}: " + ("the entry asks for it" if asked else "there are no plain weights")


def _forms(folder: Path, stem: str) -> dict[str, list[Path]]:
    """Variant -> its weight file or its index; the plain one is the empty variant."""
    variant = r"(?:\.(\w+))?"
    whole = re.compile(rf"{stem}{variant}\.safetensors")
    # Libraries and their versions put the variant into different places of an index's name.
    index = re.compile(rf"{stem}{variant}\.safetensors{variant}\.index{variant}\.json")
    forms: dict[str, list[Path]] = {}
    for path in _listed(folder):
        match = whole.fullmatch(path.name) or index.fullmatch(path.name)
        if match is not None:
            forms.setdefault(next((one for one in match.groups() if one), ""), []).append(path)
    return forms


def _listed(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:  # its config.json will be missed, by name
        return


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names. Raises CheckpointProblem when it names others than its neighbours."""
    weight_map = read_json(index).get("weight_map")
    files = sorted(set(weight_map.values()), key=str) if isinstance(weight_map, dict) and _is_flat(weight_map) else []
    if not files:
        raise CheckpointProblem(f"{index} names no files under weight_map")
    for file in files:
        if Path(file).name != file or not file.endswith(FILE_SUFFIX):
            raise CheckpointProblem(f"{index} names {file!r}, which is no {FILE_SUFFIX} file beside it")
    return tuple(index.parent / file for file in files)


def _is_flat(weight_map: dict[str, object]) -> bool:
    return all(isinstance(file, str) for file in weight_map.values())
