"""What every part of models.yaml has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Takes no key that it does not know and no value of another type, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
