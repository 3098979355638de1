"""Train in epochs on recorded events or plain examples: ``python -m jobs.train table=unified model=dcnv2``."""

from pathlib import Path
from typing import Any

from jobs.launch import job


@job("train")
def main(config: dict[str, Any], folder: Path) -> None:
    """Train, choose the best by the valid part, judge it on test; leave figures and checkpoints in ``folder``.

    Recorded events are joined and shared out by time; plain examples are read as they were prepared. Of an archive, or
    with ``order=recorded``: predict, then learn all of it as it came.
    """
    from recsys.fields import build
    from recsys.runtime.sections import TrainConfig
    from recsys.runtime.settings import build_blueprint
    from recsys.tabular.prepared import open_examples

    settings = build(TrainConfig, config, "")
    prepared = None if settings.data.examples is None else open_examples(settings.data)
    blueprint = build_blueprint(config, None if prepared is None else prepared.features)

    from rich.console import Console

    from recsys.runtime.parts import parts_of, recorded_examples

    console = Console()
    _write_config(config, folder)
    if settings.is_in_order:
        from recsys.runtime.in_order import run_in_order

        run_in_order(settings, blueprint, recorded_examples(settings, folder, console), folder, console)
    else:
        from recsys.runtime.training import train

        train(settings, blueprint, parts_of(settings, prepared, folder, console), folder, console)


def _write_config(config: dict[str, Any], folder: Path) -> None:
    """The configuration as it was resolved."""
    from omegaconf import OmegaConf

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)), encoding="utf-8")


if __name__ == "__main__":
    main()
