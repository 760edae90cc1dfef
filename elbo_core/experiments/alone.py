"""Run a command while no other process holds a lock: `python -m elbo_core.experiments.alone FILE COMMAND ...`

Two runs of `make tables` would write the same files. The second says so and waits; the lock ends with its process.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path


def run_alone(lock: Path, command: list[str]) -> int:
    """The exit status of `command`, run when the lock is free."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another run holds {lock}; waiting for its end", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(run_alone(Path(sys.argv[1]), sys.argv[2:]))
