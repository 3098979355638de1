"""Save a run in processes that SIGKILL ends, each a file later: ``python killed_while_saving.py FOLDER``.

Leaves FOLDER/0, FOLDER/1, …: in each a checkpoint, and a second one that was cut off; in the last it was not.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from cuts import Run

from recsys.rows import folders
from recsys.training.checkpoint import Checkpoints


def killed_after(num_files: int) -> None:
    """Let this process end when so many files and folders are on the disk, and the next is about to be."""
    sync, left = folders._sync, num_files

    def counted(path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)

    folders._sync = counted


def saved(run: Run, folder: Path, num_files: int | None) -> bool:
    """Save in a process of its own; whether it lived."""
    child = os.fork()
    if not child:
        run.checkpoints = Checkpoints(folder, keep=1, full_every=1)
        if num_files is not None:
            killed_after(num_files)
        run.save()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return status == 0


def main(place: Path) -> None:
    """Before the forks nothing is written: pyarrow's threads do not live on in children."""
    torch.set_num_threads(1)
    run = Run(Checkpoints(place), 2)
    run.train()
    assert saved(run, place / "first", None)
    number, lived = 0, False
    while not lived:
        shutil.copytree(place / "first", place / str(number))
        lived = saved(run, place / str(number), number)
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
