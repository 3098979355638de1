"""Plain classes as Ray actors, and answers whose errors are the ones that were raised."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import ray
from ray._private import state

from recsys.errors import RecsysError, ServiceError
from recsys.fields import AtLeast

_OURS = f"{RecsysError.__module__}."  # how Ray's text of an error begins that was raised there; ActorDied's does not


class ActorDied(ServiceError):
    """An actor is gone, and what it held with it: asking again will not help."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What an actor claims of a node: Ray puts it where that is free, and starts none beyond.

    Nothing by default: an online run has more actors than a small machine has cores, and the system shares them.
    ``resources`` are names that nodes were started with (``ray start --resources='{"shard": 1}'``); ``spread`` puts
    actors of one kind on different nodes where there are some.
    """

    num_cpus: Annotated[float, AtLeast(0)] = 0
    memory_bytes: Annotated[int, AtLeast(0)] = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    spread: bool = True


def start_actor(
    kind: type, *arguments: Any, threads: int = 1, placement: Placement | None = None, restarts: int = 0
) -> Any:
    """An actor of a plain class. ``threads`` above 1 lets it be asked while it runs something long.

    Where it dies Ray makes it anew, here or on another node, up to ``restarts`` times, and calls it again with what it
    had not answered.
    """
    placement = placement or Placement()
    options: dict[str, Any] = {
        "num_cpus": placement.num_cpus,
        "memory": placement.memory_bytes or None,
        "resources": dict(placement.resources) or None,
        "scheduling_strategy": "SPREAD" if placement.spread else "DEFAULT",
        "max_concurrency": threads,
    }
    if restarts:
        options |= {"max_restarts": restarts, "max_task_retries": -1}
    return ray.remote(kind).options(**options).remote(*arguments)


def times_made_anew() -> int:
    """How often Ray has made the actor that asks anew; 0 in its first life."""
    about = state.actors(actor_id=ray.get_runtime_context().get_actor_id())
    return int(about["NumRestarts"])


def has_died(answer: Any) -> bool:
    """Whether the actor that was to give an answer that is there was killed: it, not another that it asked.

    One that raised an error before it was made is not: another in its place would raise that too.
    """
    try:
        ray.get(answer)
    except ray.exceptions.RayActorError as error:
        return not error.actor_init_failed
    except ray.exceptions.RayError:
        return False
    return False


def wait_for(answer: Any) -> Any:
    """The value of a Ray answer. A RecsysError raised there is raised here; any other keeps the actor's traceback.

    ActorDied where the actor is gone; where an error of ours kept it from being made, a ServiceError says which.
    """
    try:
        return ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RecsysError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
        reason = _reason(error)
        if reason.startswith(_OURS):
            raise ServiceError(f"a Ray actor could not be made: {reason.removeprefix(_OURS)}") from error
        raise ActorDied(f"{_kind(error)} died: {reason}") from error


def _kind(error: BaseException) -> str:
    """Which actor: Ray's text has a line that says its class."""
    found = re.search(r"class_name: (\w+)", str(error))
    return f"a {found[1]}" if found else "a Ray actor"


def _reason(error: BaseException) -> str:
    """One line of Ray's many: where the actor could not even be made, the error that it met there."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if "creation task" in lines[0] else lines[0]
