"""The machine: GPUs and driver, CUDA toolkit, whether it compiles."""

from __future__ import annotations

import anyio.to_thread

from llm_router.qualify import host
from llm_router.qualify.client import CallFailed
from llm_router.qualify.report import Status
from llm_router.qualify.session import Session

COMPILE_SECONDS = 120.0


async def check_host(session: Session) -> None:
    """Add the rows, the versions and the GPUs."""
    report = session.report
    report.host = dict(host.facts())
    unknown = dict.fromkeys(("driver", "driver_cuda", "nvcc"))
    report.versions = {"router": await _router_version(session), **host.versions(), **unknown}
    await _gpus(session)
    await _toolkit(session)


async def _router_version(session: Session) -> str | None:
    """Of the router that runs: a newer one may be installed already."""
    try:
        return str((await session.router.call("GET", "/openapi.json"))["info"]["version"])
    except (CallFailed, KeyError, TypeError):
        return None


async def _gpus(session: Session) -> None:
    nvml, report = session.nvml, session.report
    if nvml is None:
        session.add("gpu", "", ("skipped", host.NO_GPU))
        return
    try:
        gpus, versions = await anyio.to_thread.run_sync(
            host.read_gpus, nvml, abandon_on_cancel=True
        )
        shown = len((await session.router.call("GET", "/admin/gpus"))["gpus"])
    except nvml.NVMLError as error:
        session.add("gpu", "", ("failed", f"NVML does not answer: {error}; see `nvidia-smi`"))
        return
    except CallFailed as error:
        session.add("gpu", "", ("failed", str(error)))
        return
    report.gpus = gpus
    report.versions |= versions
    names = ", ".join(sorted({str(gpu["name"]) for gpu in gpus}))
    said = f"{len(gpus)} × {names}, driver {versions['driver'] or 'of an unknown version'}"
    said += f", CUDA {versions['driver_cuda']}" if versions["driver_cuda"] else ""
    if shown < len(gpus):
        said += (
            f"; but the router's service sees {shown} GPUs, and cannot wait for their memory: "
            "run the playbook again"
        )
    status: Status = "failed" if shown < len(gpus) else "passed"
    session.add("gpu", "", (status, said), values={"gpus": len(gpus), "gpus_of_router": shown})


async def _toolkit(session: Session) -> None:
    found = await anyio.to_thread.run_sync(host.find_toolkit, abandon_on_cancel=True)
    if found is None:
        places = ", ".join(str(place) for place in host.TOOLKITS)
        why = f"no CUDA toolkit in {places} or on PATH; of the engines, SGLang compiles with one"
        session.skip("", ("toolkit", "compile"), why)
        return
    home, version = found
    session.report.versions["nvcc"] = version
    session.add("toolkit", "", ("passed", f"CUDA {version} in {home}"))
    if home != host.TOOLKITS[0] and all(one.backend != "sglang" for one in session.models.values()):
        # a toolkit that no engine of this host compiles with may be of any kind
        session.add("compile", "", ("skipped", "no model that is checked runs on SGLang"))
        return
    capabilities = [str(one) for gpu in session.report.gpus if (one := gpu["compute_capability"])]
    seconds = min(COMPILE_SECONDS, session.left())
    began = session.clock()
    outcome = await anyio.to_thread.run_sync(
        host.compile_kernel, home, version, capabilities, seconds, abandon_on_cancel=True
    )
    took = session.clock() - began
    session.add("compile", "", outcome, seconds=took, values={"compile_seconds": took})
