"""All of `make tables` in one process: plan, measure what is missing, check what is shipped, run the notebooks.

    python -m elbo_core.experiments.all_tables toy
    python -m elbo_core.experiments.all_tables toy --seed 7     check the items that this seed draws

With ELBO_RUNS set to a folder (`make tables MEASURE=all` does that), nothing that is shipped is read: all is measured
anew into that folder, which resumes, and is compared with what is shipped at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from elbo_core.experiments import warm
from elbo_core.paths import DATA, MEASURED, ROOT, RUNS

AT_ONCE = 2
"""So many notebooks run at once, or as many as there are cores if those are fewer."""


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    warm.warm_up()  # its imports go on beside those of this process
    from elbo_core.errors import MeasurementError, StoreError
    from elbo_core.experiments.forecast import can_run, what_is_missing, write
    from elbo_core.experiments.profiles import get_profile

    try:
        profile = get_profile(options.profile)
        print(what_is_missing(profile), flush=True)
        if not can_run(profile):
            return 1
        write(profile, ROOT / "build" / profile.name / "parameters")
        _measure_and_check(profile, options)
        _run_notebooks(profile)
    except (MeasurementError, StoreError, ValueError) as error:
        print(f"\nmake tables stops: {error}", file=sys.stderr)
        return 1
    except NotebookFailed as error:
        print(f"\nmake tables stops: {error}", file=sys.stderr)
        return 1
    return 0


def _measure_and_check(profile, options: argparse.Namespace) -> None:
    """Have all measurements that the notebooks read, and know that those that are shipped are right."""
    from elbo_core.experiments import recheck
    from elbo_core.experiments.pool import cores, measure_all, raise_first, todo_of
    from elbo_core.experiments.shipped import shipped_titles, uncovered
    from elbo_core.experiments.work import all_works, title

    works = all_works(profile)
    todo = todo_of(works)
    anew = sum(map(len, todo.values()))
    total, titles = sum(len(work.contents()) for work in works), shipped_titles()
    shipped = [work for work in works if title(work) in titles]
    if anew:
        if MEASURED is not None and profile.as_committed and shipped:
            print("\n".join(["SHIPPED MEASUREMENTS DO NOT FIT:", *map(str, uncovered(todo))]), flush=True)
        print(f"measuring {anew} of {total} items on {cores()} cores{_about(anew, total)}", flush=True)
        raise_first(measure_all(todo, cores()))
    if MEASURED is None:
        verdict = recheck.compare_all(works)
        print(f"compared with what is shipped: {verdict}", flush=True)
    elif anew == total or not shipped or not options.items:
        verdict = recheck.Verdict(options.seed, anew, total, None)
    else:
        verdict = recheck.recheck([work for work in shipped if work not in todo], options.items, options.seed)
        print(verdict, flush=True)
    verdict.raise_if_wrong()
    recheck.write_note(verdict, profile.name)


def _about(items: int, total: int) -> str:
    """How long that will take, by what the shipped measurements took."""
    from elbo_core.experiments.shipped import read_manifest

    seconds = sum(run["seconds"] for run in read_manifest()["runs"])
    return f"; about {seconds / 60 * items / total / AT_ONCE:.0f} minutes on two" if seconds else ""


class NotebookFailed(RuntimeError):
    """A notebook that stopped; the message names it and the cell's error."""


def _run_notebooks(profile) -> None:
    """Run those whose result is not up to date, two at a time.

    Raises:
        NotebookFailed: one stopped; those that are running end first.
    """
    from elbo_core.experiments.forecast import parameters
    from elbo_core.experiments.pool import cores

    common = _common_stamp(profile.name)
    stale = {name: own for name, own in parameters(profile).items() if not _is_done(profile.name, name, own, common)}
    print(f"running {len(stale)} of {len(parameters(profile))} notebooks", flush=True)
    with ThreadPoolExecutor(min(AT_ONCE, cores())) as pool:
        runs = [pool.submit(_run_notebook, profile.name, name, own, common) for name, own in stale.items()]
        try:
            for run in runs:
                run.result()
        except NotebookFailed:
            pool.shutdown(cancel_futures=True)
            raise


def _run_notebook(profile: str, name: str, own: Mapping, common: str) -> None:
    """Run a notebook in a forked kernel, in a process of its own thread; its result appears when it is whole."""
    import papermill

    started = time.perf_counter()
    target = _target(profile, name)
    partial = target.with_suffix(".partial.ipynb")
    target.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb", partial, dict(own), kernel_name="python3", progress_bar=False,
            start_timeout=180, cwd=ROOT / "notebooks", kernel_manager_class=warm.WarmKernelManager,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise NotebookFailed(
            f"notebook {name} failed in cell {error.cell_index}: {error.ename}: {error.evalue}"
        ) from error
    _to_html(partial, target)
    partial.rename(target)
    _stamp(target).write_text(_digest(name, own, common))
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


def _to_html(notebook: Path, target: Path) -> None:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(notebook))
    target.with_suffix(".html").write_text(body, encoding="utf-8")


def _target(profile: str, name: str) -> Path:
    return ROOT / "build" / profile / f"{name}.ipynb"


def _stamp(target: Path) -> Path:
    """Says what an executed notebook was made of."""
    return target.with_suffix(".stamp")


def _is_done(profile: str, name: str, own: Mapping, common: str) -> bool:
    target = _target(profile, name)
    stamp = _stamp(target)
    return target.is_file() and stamp.is_file() and stamp.read_text() == _digest(name, own, common)


def _digest(name: str, own: Mapping, common: str) -> str:
    notebook = (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
    return hashlib.sha256(b"\0".join([notebook, json.dumps(dict(own)).encode(), common.encode()])).hexdigest()


def _common_stamp(profile: str) -> str:
    """All else that an executed notebook depends on: code, profile, extent, the paper's numbers, weights and
    measurements."""
    places = [ROOT / "elbo_core", DATA / "paper", DATA / "models", DATA / "measured"]
    kinds = {".py", ".yaml", ".csv", ".json", ".safetensors"}
    files = [
        path for place in places for path in place.rglob("*") if path.suffix in kinds and "training" not in path.parts
    ]
    digest = hashlib.sha256(f"{os.environ.get('ELBO_IMAGES', '')} {RUNS}".encode())
    for path in [*sorted(files), *sorted(DATA.glob("*.yaml")), DATA / "profiles" / f"{profile}.yaml"]:
        digest.update(f"{path.relative_to(ROOT)} {_of_file(path)}\n".encode())
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    """Its content or, of weights, which are large, what its store knows them by."""
    if path.suffix == ".safetensors":
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the items that are checked")
    parser.add_argument("--items", type=int, default=40, help="to check, as many as the time allows; 0 for none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
