"""Measure all that a profile needs and its stores lack, of every kind, with many processes and one progress bar.

    python -m elbo_core.experiments.measure --profile toy --list           what is missing, without measuring
    python -m elbo_core.experiments.measure --profile toy                  a process a core
    python -m elbo_core.experiments.measure --models toy-sd15 toy-sd35 --kinds segmentation --time-limit 200 --pack part
    python -m elbo_core.experiments.measure --unpack part.0.tar part.1.tar

Start it again to do what is left. On a GPU, the processes share it. `--pack` writes all that the stores hold of the
chosen works to a few files that another machine can `--unpack`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from elbo_core.experiments.pool import Outcome, cores, measure_all, shard, todo_of
from elbo_core.experiments.profiles import PROFILES, get_profile
from elbo_core.experiments.transfer import pack, unpack
from elbo_core.experiments.work import KINDS, Work, all_works, title
from elbo_core.paths import RUNS


def chosen_works(options: argparse.Namespace) -> list[Work]:
    """The works that the options name."""
    works = all_works(get_profile(options.profile), options.kinds)
    unknown = set(options.models or ()) - {work.model for work in works}
    if unknown:
        raise SystemExit(f"nothing is to be measured with {', '.join(sorted(unknown))} in profile {options.profile}")
    order = options.models or list(dict.fromkeys(work.model for work in works))
    return [work for model in order for work in works if work.model == model]


def share(todo: dict[Work, list[int]], rank: int, size: int) -> dict[Work, list[int]]:
    """Every `size`-th item of each work, from the `rank`-th on."""
    own = {work: [index for index in indices if index % size == rank] for work, indices in todo.items()}
    return {work: indices for work, indices in own.items() if indices}


def listing(works: Sequence[Work], todo: dict[Work, list[int]]) -> str:
    """How much is missing of each work."""
    lines = [f"{len(todo.get(work, ())):6d} of {len(work.contents()):6d}  {title(work)}" for work in works]
    total, missing = sum(len(work.contents()) for work in works), sum(map(len, todo.values()))
    return "\n".join([*lines, f"{missing:6d} of {total:6d}  in all are to be measured"])


def report(outcome: Outcome, seconds: float) -> str:
    """What a run has done, in one line and one for each failure."""
    failed = [f"failed: {failure}" for failure in outcome.failures]
    head = f"measured {outcome.measured} items in {seconds:.0f} s, {len(failed)} failed, {outcome.left} are left"
    return "\n".join([*failed, head])


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.unpack:
        for path in options.unpack:
            print(f"{path}: {unpack(path, options.store)} files")
        return 0
    started = time.monotonic()
    works = chosen_works(options)
    todo = share(todo_of(works, options.store), *options.shard)
    if options.list:
        print(listing(works, todo))
        return 0
    outcome = Outcome()
    if todo:
        left = options.time_limit - (time.monotonic() - started)
        outcome = measure_all(todo, options.processes, options.store, left)
    print(report(outcome, time.monotonic() - started), flush=True)
    if options.pack:
        for path in pack(works, options.pack, options.store):
            print(f"packed {path} ({path.stat().st_size / 2**20:.1f} MB)")
    return 1 if outcome.failures else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="toy", choices=list(PROFILES))
    parser.add_argument("--models", nargs="+", help="only these, in this order; all by default")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="only these, in this order; all by default")
    parser.add_argument("--processes", type=int, default=cores(), help="a core each by default")
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="I/N", help="every N-th item from the I-th")
    parser.add_argument("--time-limit", type=float, default=float("inf"), metavar="SECONDS", help="then stop")
    parser.add_argument("--store", type=Path, default=RUNS, help="where the run stores lie")
    parser.add_argument("--list", action="store_true", help="say what is missing and measure nothing")
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="then write what is stored to FILE.0.tar, FILE.1.tar ..."
    )
    parser.add_argument("--unpack", type=Path, nargs="+", metavar="FILE", help="add such files to the store, no more")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
