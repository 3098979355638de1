"""The HTTP service as a Ray Serve application: ``serve.run(serving_application(redis_url="redis://HOST:6379/0"))``.

Importing this starts nothing. Each replica has its own connections and, where there is one, its own cache.
"""

from dataclasses import replace
from typing import Any

from recsys.errors import DependencyError
from recsys.serving import CacheConfig, Lookup, Ranker
from recsys.serving.app import build_app
from recsys.serving.guard import Limits, token_of


def serving_application(
    *,
    redis_url: str,
    model: str = "recsys",
    limits: Limits | None = None,
    token_env: str | None = None,
    cache: CacheConfig | None = None,
    num_replicas: int = 1,
) -> Any:
    """An application for ``serve.run``.

    The token is read where a replica runs, from the environment variable ``token_env``. ``redis_url`` travels to the
    replicas: a password in it does too. DependencyError where Ray is installed without its Serve.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise DependencyError("Ray is installed without its Serve: pip install 'ray[serve]'") from error

    def build() -> Any:
        within = replace(limits or Limits(), token=token_of(token_env))
        return build_app(Lookup.connect(redis_url, model, cache), Ranker.connect(redis_url, model, cache), within)

    class Serving:
        """One replica: the application alone."""

    deployment: Any = serve.deployment(name="recsys", num_replicas=num_replicas)(serve.ingress(build)(Serving))
    return deployment.bind()
