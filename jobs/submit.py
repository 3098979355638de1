"""Send a job to a Ray cluster: ``python -m jobs.submit job=online address=http://HOST:8265 table=unified``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.launch import CONF, job
from jobs.sections import Text
from recsys.errors import unknown
from recsys.fields import build

if TYPE_CHECKING:
    from recsys.runtime.submission import JobServer


@dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """Which job, and where to."""

    job: Text
    address: Text
    follow: bool
    working_dir: Path | None
    python: Text

    def __post_init__(self) -> None:
        known = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "submit")
        if self.working_dir is None and self.job not in known:
            raise unknown("job", self.job, known)


def main() -> None:
    """Take this job's own arguments; whatever else was typed is the other's."""
    own, others = split_arguments(sys.argv[1:])
    sys.argv[1:] = own

    @job("submit")
    def submit(config: dict[str, Any], folder: Path) -> None:
        """Send the job and print what it prints until its end; this one ends with its exit status."""
        settings = build(SubmitSettings, config, "")

        from recsys.runtime.submission import JobServer, command_of

        server = JobServer(settings.address)
        job_id = server.submit(command_of(settings.job, others, settings.python), settings.working_dir)
        if not settings.follow:
            print(job_id)
            return
        print(f"{job_id} runs on {settings.address}", flush=True)
        status = _follow(server, job_id)
        if status:
            sys.exit(status)

    submit()


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(this job's, the other's). With a flag of Hydra's (``--help``) all are this one's; ``-m`` is the other's.

    >>> split_arguments(["job=train", "-m", "table=full,hash", "follow=false"])
    (['job=train', 'follow=false'], ['-m', 'table=full,hash'])
    """
    if any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments):
        return list(arguments), []
    keys = tuple(f"{field.name}=" for field in fields(SubmitSettings))
    own = [argument for argument in arguments if argument.startswith(keys)]
    return own, [argument for argument in arguments if not argument.startswith(keys)]


def _follow(server: "JobServer", job_id: str) -> int:
    """The job's exit status; Ctrl-C asks it to stop and waits for that, another Ctrl-C does not wait."""
    try:
        return server.follow(job_id, _print)
    except KeyboardInterrupt:
        server.stop(job_id)
        print(f"{job_id} was asked to stop; Ctrl-C does not wait for its end", file=sys.stderr)
        server.follow(job_id, _print)
        raise


def _print(text: str) -> None:
    print(text, end="", flush=True)


if __name__ == "__main__":
    main()
