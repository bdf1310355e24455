"""One resumable training run: phases, a progress bar, checkpoints, a warm-up and cosine learning rate.

Knows steps, optimizers and files; knows nothing of what is learned.
Invariant: a run that is stopped goes on from its last checkpoint with the same optimizer state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

CHECKPOINT_EVERY_STEPS = 100
Denoiser = TypeVar("Denoiser", bound=torch.nn.Module)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of steps on batches of one kind: (batch size, width, height) triples, taken in turn."""

    steps: int
    shapes: tuple[tuple[int, int, int], ...]


def shapes_by_step(phases: tuple[Phase, ...]) -> Iterator[tuple[int, int, int]]:
    for phase in phases:
        for step in range(phase.steps):
            yield phase.shapes[step % len(phase.shapes)]


def learning_rate(
    step: int, total_steps: int, peak: float, warmup_steps: int = 100, floor_share: float = 0.02
) -> float:
    """Linear warm-up, then a half cosine down to `floor_share` of the peak."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (floor_share + (1 - floor_share) * 0.5 * (1 + math.cos(math.pi * progress)))


def average_into(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move an exponential moving average of the weights one step towards the model."""
    with torch.no_grad():
        for kept, fresh in zip(average.parameters(), model.parameters(), strict=True):
            kept.lerp_(fresh, 1 - decay)


def train(
    name: str,
    models: dict[str, torch.nn.Module],
    phases: tuple[Phase, ...],
    loss_at: Callable[[tuple[int, int, int], int], torch.Tensor],
    work_folder: Path,
    *,
    peak_learning_rate: float,
    after_step: Callable[[int], None] | None = None,
    weight_decay: float = 0.0,
) -> None:
    """Minimise `loss_at(shape, step)` over all phases, resuming from `work_folder/<name>.pt` if it is there."""
    parameters = [p for model in models.values() for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay)
    checkpoint = work_folder / f"{name}.pt"
    done = _resume(checkpoint, models, optimizer)
    shapes = list(shapes_by_step(phases))
    torch.manual_seed(done)
    with _progress_bar() as bar:
        task = bar.add_task(name, total=len(shapes), completed=done, loss=float("nan"))
        recent = None
        for step in range(done, len(shapes)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, len(shapes), peak_learning_rate)
            loss = loss_at(shapes[step], step)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if after_step is not None:
                after_step(step)
            recent = loss.item() if recent is None else 0.98 * recent + 0.02 * loss.item()
            bar.update(task, completed=step + 1, loss=recent)
            if (step + 1) % CHECKPOINT_EVERY_STEPS == 0 or step + 1 == len(shapes):
                _save(checkpoint, models, optimizer, step + 1)
                bar.console.print(f"{name}: step {step + 1} of {len(shapes)}, loss {recent:.5f}")


def train_average(
    name: str,
    denoiser: Denoiser,
    phases: tuple[Phase, ...],
    loss_at: Callable[[tuple[int, int, int], int], torch.Tensor],
    work_folder: Path,
) -> Denoiser:
    """Train a denoiser, and return the running average of its weights, which draws better than the last ones."""
    average = copy.deepcopy(denoiser).requires_grad_(False)
    train(
        name,
        {"denoiser": denoiser, "average": average},
        phases,
        loss_at,
        work_folder,
        peak_learning_rate=1e-3,
        after_step=lambda step: average_into(average, denoiser, min(0.999, (step + 1) / (step + 20))),
        weight_decay=0.01,
    )
    return average.eval()


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.5f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def _resume(checkpoint: Path, models: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for name, model in models.items():
        model.load_state_dict(state["models"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(checkpoint: Path, models: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fresh = checkpoint.with_suffix(".new")
    states = {name: model.state_dict() for name, model in models.items()}
    torch.save({"models": states, "optimizer": optimizer.state_dict(), "step": step}, fresh)
    fresh.replace(checkpoint)
