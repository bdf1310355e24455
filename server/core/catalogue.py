"""The catalogue: which models exist, and which of other people's names mean them.

Knows models.yaml's content; knows no weights, no requests and no YAML.
Invariant: a catalogue that exists is consistent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from pipelines.messages import ModelSpec
from server.core.errors import did_you_mean
from server.core.model_entry import ModelEntry
from server.core.policy_entry import PolicyEntry
from server.core.providers import LOCAL, BackendEntry, BackendName, NameEntry, Target
from server.core.strict import Strict

ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]
# Other people's names hold colons too, and here * stands for anything.
PublicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9*][A-Za-z0-9._/:*-]{0,99}$")]


class CatalogueFile(Strict):
    # Before default_model, whose check needs it.
    models: dict[ModelId, ModelEntry] = Field(min_length=1)
    default_model: ModelId
    default_aliases: tuple[str, ...] = Field(default=(), strict=False)
    backends: dict[BackendName, BackendEntry] = Field(default_factory=dict)
    # Their routes `server.core.catalogue_file` checks, as each has a line of its own.
    names: dict[PublicName, NameEntry] = Field(default_factory=dict)
    never_together: tuple[Annotated[tuple[str, ...], Field(min_length=2, strict=False)], ...] = Field(
        default=(), strict=False
    )
    policy: PolicyEntry = PolicyEntry()

    @field_validator("never_together")
    @classmethod
    def _exist(cls, groups: tuple[tuple[str, ...], ...], info: ValidationInfo) -> tuple[tuple[str, ...], ...]:
        models = info.data.get("models")
        for name in (name for group in groups for name in group):
            if models is not None and name not in models:
                raise ValueError(f"'{name}' is none of the models.{did_you_mean(name, models)}")
        return groups

    @field_validator("default_model")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        models = info.data.get("models")
        if models is not None and name not in models:
            raise ValueError(f"'{name}' is none of the models.{did_you_mean(name, models)}")
        return name

    @field_validator("backends")
    @classmethod
    def _local_is_ours(cls, backends: dict[str, BackendEntry]) -> dict[str, BackendEntry]:
        if LOCAL in backends:
            raise ValueError(f"'{LOCAL}' is this server's own: name the provider otherwise")
        return backends

    @field_validator("models")
    @classmethod
    def _folders_differ(cls, models: dict[str, ModelEntry]) -> dict[str, ModelEntry]:
        pulled: dict[str, str] = {}
        for model, entry in models.items():
            other = pulled.setdefault(folder_name(model), model) if entry.hub else model
            if other != model:
                raise ValueError(f"'{other}' and '{model}' would be pulled into the same folder: rename one")
        return models


class Catalogue:
    """A loaded models.yaml. Immutable. folder: where the file lies. models_folder: where what is pulled lies."""

    def __init__(self, file: CatalogueFile, folder: Path, models_folder: Path) -> None:
        self._file, self._folder, self.models_folder = file, folder, models_folder

    @property
    def default_model(self) -> str:
        return self._file.default_model

    @property
    def never_together(self) -> tuple[tuple[str, ...], ...]:
        """Groups of models of which one at a time may be on a device."""
        return self._file.never_together

    @property
    def policy(self) -> PolicyEntry:
        """What is judged; nothing unless the file says so."""
        return self._file.policy

    @property
    def safety_checker(self) -> str | None:
        """The folder of the one that workers look at pictures with."""
        sources = (check.source for check in self._file.policy.checks if check.source is not None)
        return next((self.absolute(source) for source in sources), None)

    @property
    def models(self) -> dict[str, ModelEntry]:
        return dict(self._file.models)

    @property
    def backends(self) -> dict[str, BackendEntry]:
        """The providers that requests may be handed on to, by the operator's names for them."""
        return dict(self._file.backends)

    @property
    def name_entries(self) -> dict[str, NameEntry]:
        """What `names` says, of patterns too."""
        return dict(self._file.names)

    @property
    def other(self) -> dict[str, object]:
        """All that is neither of a model, nor of a name, nor of a backend, by its key."""
        parts = {"models", "names", "backends"}
        return {key: getattr(self._file, key) for key in CatalogueFile.model_fields if key not in parts}

    def targets(self, name: str | None) -> tuple[Target, ...]:
        """Who may serve a name, in the operator's order; nobody knows it: empty. None means the default model."""
        wanted = self.default_model if name is None else name
        entry = self.name_entry(wanted)
        if entry is not None and entry.route:
            return entry.targets
        model = self._own_model(wanted)
        return () if model is None else (Target(LOCAL, model),)

    def resolve(self, name: str | None) -> str | None:
        """The model of ours that a name means: an id, an alias, or what its route names first of ours."""
        return next((target.model for target in self.targets(name) if target.backend == LOCAL), None)

    def name_entry(self, name: str) -> NameEntry | None:
        """What `names` says of a name. Patterns give way to whatever names it in full."""
        names = self._file.names
        if name in names:
            return names[name]
        if self._is_named_in_full(name):
            return None
        return next((entry for pattern, entry in names.items() if _matches(name, (pattern,))), None)

    def _is_named_in_full(self, name: str) -> bool:
        models = self._file.models
        return name in models or any(name in entry.aliases for entry in models.values())

    def _own_model(self, name: str) -> str | None:
        if name in self._file.models:
            return name
        for model, entry in self._file.models.items():
            if _matches(name, entry.aliases):
                return model
        is_default = _matches(name, self._file.default_aliases) or self.name_entry(name) is not None
        return self._file.default_model if is_default else None

    def names(self) -> list[str]:
        """Every name that can be listed: ids first, then aliases and names without patterns."""
        aliases = [alias for entry in self._file.models.values() for alias in entry.aliases]
        plain = [alias for alias in [*aliases, *self._file.names, *self._file.default_aliases] if "*" not in alias]
        return list(dict.fromkeys([*self._file.models, *plain]))

    def specs(self) -> tuple[ModelSpec, ...]:
        """What a worker is told, with absolute paths."""
        return tuple(self._spec(model, entry) for model, entry in self._file.models.items())

    def _spec(self, model: str, entry: ModelEntry) -> ModelSpec:
        config = entry.config
        return ModelSpec(
            model,
            entry.family,
            self._place(model, entry),
            None if entry.rest is None else self.absolute(entry.rest),
            # The name of a published configuration has no slash; a folder is written with one.
            config if config is None or "/" not in config else self.absolute(config),
            entry.variant,
            {name: self.absolute(path) for name, path in entry.parts.items()},
            entry.hub is not None,
            entry.loading,
            entry.dtype,
            entry.fit,
            entry.attention,
            entry.compile,
            {name: self.absolute(lora.source) for name, lora in entry.loras.items() if lora.source is not None},
            entry.lora_cache_bytes,
            {
                kind: None if control.source is None else self.absolute(control.source)
                for kind, control in entry.controls.items()
            },
        )

    def _place(self, model: str, entry: ModelEntry) -> str:
        if entry.source is not None:
            return self.absolute(entry.source)
        single_file = entry.hub.single_file if entry.hub else None
        return str(self.models_folder / folder_name(model) / (single_file or ""))

    def pinned_manifest(self, model: str) -> str | None:
        """Where the manifest lies that a model's sources are held to."""
        hub = self._file.models[model].hub
        return None if hub is None or hub.manifest is None else self.absolute(hub.manifest)

    def absolute(self, path: str) -> str:
        """Relative to models.yaml; ~ is the home folder where there is one."""
        return str((self._folder / os.path.expanduser(path)).resolve())  # noqa: PTH111 (the other one raises)


def folder_name(model: str) -> str:
    """The folder that `safelight models pull` makes for an id, as `pipelines.weights.manifest` names it."""
    return model.replace("/", "--")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) for pattern in patterns)
