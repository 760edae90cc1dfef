"""Jupyter kernels that start at once: they are forked from one process that has imported what notebooks import.

A kernel of its own takes 6 to 9 s for torch and diffusers, more than most notebooks need for their work when the
measurements are there. What is forked has nothing but modules; a kernel ends with the process that asked for it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from elbo_core.experiments.pool import one_thread

IMPORTED = [
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "seaborn",
    "elbo_core.diffusion.models",
    "elbo_core.experiments.forecast",
    "elbo_core.experiments.redraws",
    "elbo_core.reports.claims",
    "elbo_core.reports.tables",
]
"""What the kernels and the pool's processes share. None of it computes anything."""
CONTEXT = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Start the process that all kernels are forked from; it imports while this one goes on."""
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(IMPORTED)
    with one_thread():
        forkserver.ensure_running()


class ForkedProcess:
    """A forked process in the clothes of `subprocess.Popen`, as far as a provisioner looks."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.process.BaseProcess):
        self._process = process
        self.pid = process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("kernel", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive() and self.pid is not None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


class WarmProvisioner(LocalProvisioner):
    """Starts a kernel by forking. It has no group of processes of its own that could be signalled as one."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        place, environment = kwargs.get("cwd") or os.getcwd(), dict(kwargs.get("env") or os.environ)
        process = CONTEXT.Process(target=_run_kernel, args=(cmd[1:], str(place), environment))
        process.start()
        self.process = ForkedProcess(process)  # type: ignore[assignment]
        self.pid, self.pgid = process.pid, None
        return self.connection_info


class WarmKernelManager(AsyncKernelManager):
    """A manager whose kernel is forked."""

    async def _async_pre_start_kernel(self, **kwargs: Any) -> tuple[list[str], dict[str, Any]]:
        if self.provisioner is None:
            self.kernel_id = self.kernel_id or kwargs.get("kernel_id", "warm")
            self.provisioner = WarmProvisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**kwargs)

    pre_start_kernel = _async_pre_start_kernel  # the base class calls it by this name


def _run_kernel(command: list[str], place: str, environment: dict[str, str]) -> None:
    """What the forked process does: be the kernel that `command` (`-m ipykernel_launcher -f FILE`) asks for."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _settle_libraries()
    sys.argv = command[1:]
    sys.path.insert(0, "")
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(argv=[*command[2:], "--IPKernelApp.log_level=50"])  # no advice on how to stop it


def _settle_libraries() -> None:
    """What libraries decide when they are imported, and would have decided otherwise inside a kernel."""
    import matplotlib
    import pandas

    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    pandas.set_option("display.max_columns", 20)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
