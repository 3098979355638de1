"""Plain classes as Ray actors, and answers whose errors are the ones that were raised."""

from typing import Any

import ray

from recsys.errors import RecsysError, ServiceError


class ActorDied(ServiceError):
    """An actor is gone, and what it held with it: asking again will not help."""


def start_actor(kind: type, *arguments: Any, threads: int = 1) -> Any:
    """An actor of a plain class. ``threads`` above 1 lets it be asked while it runs something long.

    It claims no logical CPU: an online run has more actors than a small machine has cores, and the system shares them.
    """
    return ray.remote(kind).options(num_cpus=0, max_concurrency=threads).remote(*arguments)


def wait_for(answer: Any) -> Any:
    """The value of a Ray answer. A RecsysError raised there is raised here; any other keeps the actor's traceback."""
    try:
        return ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RecsysError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise ActorDied(f"a Ray actor died: {str(error).splitlines()[0]}") from error
