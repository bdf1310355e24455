"""Several works at once, all or none.

Invariant: the first failure cancels the others and is raised; nothing is left at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]], known: type[Exception]) -> list[T]:
    """Their results, in order. Of several failures a defect is raised before a known one, or it would stay unseen."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        _, defects = failures.split(known)
        raise (defects or failures).exceptions[0] from None
    return [task.result() for task in tasks]
