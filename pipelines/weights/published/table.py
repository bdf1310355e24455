"""Holds what the loader expects of the published models against what their files hold, without any of their weights.

Knows the published configurations, names and shapes; everything is built on the meta device and takes no memory.
Invariant: what a row compares went through the same conversion as real weights do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from pipelines.weights.component import Comparison, compare, empty_model
from pipelines.weights.original_names import prefix_of
from pipelines.weights.published import PUBLISHED, published_folder
from pipelines.weights.published.originals import FILES, original_shapes
from pipelines.weights.single_file import Tensors, to_model_names

OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True, slots=True)
class Row:
    """One component of a published model in one form: `folder`, or the name of the single file that holds it."""

    model: str
    component: str
    form: str
    parameters: int
    published_parameters: int
    comparison: Comparison

    @property
    def is_good(self) -> bool:
        return self.comparison.problem() is None and self.parameters == self.published_parameters


def rows() -> Iterator[Row]:
    for model, published in PUBLISHED.items():
        for component, parameters in published.parameters.items():
            built = empty_published(model, component)
            count = sum(weight.numel() for weight in built.parameters())
            for form, tensors in forms(model, component, built).items():
                comparison = compare(built, to_model_names(tensors, built))
                yield Row(model, component, form, count, parameters, comparison)


def empty_published(model: str, component: str) -> Any:
    """A published model's component on the meta device."""
    config = published_folder(model) / component / "config.json"
    return empty_model(class_of(PUBLISHED[model].family, component), config)


def class_of(family: str, component: str) -> Any:
    if component == "text_encoder_2":
        return T5EncoderModel if family == "flux" else CLIPTextModelWithProjection
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "transformer": FluxTransformer2DModel}
    return classes.get(component, CLIPTextModel)


def forms(model: str, component: str, built: Any) -> dict[str, Tensors]:
    """The component's tensors in each form in which it was published."""
    found = {"folder": folder_tensors(model, component, built)}
    for file in FILES[model]:
        shapes = original_shapes(model, file)
        prefix = prefix_of(PUBLISHED[model].family, component, shapes, is_alone=file == "ae.safetensors")
        if prefix is not None and (file == "ae.safetensors") == (component == "vae" and "flux" in model):
            below = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
            found[file] = {name: torch.empty(shape, device="meta") for name, shape in below.items()}
    return found


def folder_tensors(model: str, component: str, built: Any) -> Tensors:
    """As the versions of diffusers and transformers wrote them by which the folder was published."""
    tied = getattr(built, "all_tied_weights_keys", None) or {}
    tensors = {name: value for name, value in built.state_dict().items() if name not in tied}
    if isinstance(built, CLIPTextModel):
        tensors = {f"text_model.{name}": value for name, value in tensors.items()}
        tensors["text_model.embeddings.position_ids"] = torch.empty((1, 77), device="meta")
    if model.startswith("sd21") and component == "vae":
        tensors = {_old_attention(name): value for name, value in tensors.items()}
    return tensors


def _old_attention(name: str) -> str:
    for new, old in OLD_ATTENTION.items():
        name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
    return name
