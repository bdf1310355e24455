"""What of the catalogue a caller may have: which names, and by whom they may be served for it.

Knows callers, names and targets; knows no request. Pure.
Invariant: a name leads a caller nowhere where its key does not allow it to be led, whatever the request says.
"""

from __future__ import annotations

from server.core import errors
from server.core.caller import Caller
from server.core.catalogue import Catalogue
from server.core.providers import LOCAL, Target


def allowed_targets(caller: Caller, name: str | None, catalogue: Catalogue) -> tuple[Target, ...]:
    """Who may serve a name for this caller, in the operator's order; at least one. None means the default model. Raises
    SafelightError: 404 where nobody knows the name, 403 where the caller may not ask for it."""
    targets = catalogue.targets(name)
    if not targets:
        raise errors.model_not_found(name or "", allowed_names(caller, catalogue))
    wanted = catalogue.default_model if name is None else name
    allowed = _of(caller, wanted, targets)
    if not allowed:
        raise errors.model_not_allowed(wanted)
    return allowed


def allowed_names(caller: Caller, catalogue: Catalogue) -> list[str]:
    """Of the names that can be listed, those that the caller may ask for."""
    return [name for name in catalogue.names() if _of(caller, name, catalogue.targets(name))]


def unknown_names(models: frozenset[str], catalogue: Catalogue) -> list[str]:
    """What a key allows and nothing answers to: most likely mistyped."""
    targets = {str(target) for name in catalogue.names() for target in catalogue.targets(name)}
    return sorted(name for name in models if name not in targets and not catalogue.targets(name))


def _of(caller: Caller, name: str, targets: tuple[Target, ...]) -> tuple[Target, ...]:
    return tuple(target for target in targets if _may_serve(caller, name, target))


def _may_serve(caller: Caller, name: str, target: Target) -> bool:
    """A name on the key's list brings all of its route; a model on it, only that model, under whatever name."""
    if caller.local_only and target.backend != LOCAL:
        return False
    if caller.models is None or name in caller.models or str(target) in caller.models:
        return True
    return target.backend == LOCAL and target.model in caller.models
