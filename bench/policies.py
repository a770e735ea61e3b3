"""On a host with GPUs: how long each model takes to go and to come back, by each policy.

    sudo PYTHONPATH=. /opt/llm-router/current/venv/bin/python -m bench.policies

The running router does it, with its own configuration: models.yml is changed for each policy, taken
over, and put back as it was. Meanwhile the models answer nobody else in good time. ``--models``,
``--policies`` and ``--rounds`` make it shorter.

Beside the times stands the bus's bound: what the weights take over PCI Express at its full speed.
Nothing that has to bring all of them to the GPU can be faster.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.facts import machine, quantile
from llm_router.cli.client import AdminClient
from llm_router.cli.exits import Failed
from llm_router.config.load import Settings, load_settings
from llm_router.engines import engine_for
from llm_router.nvml import open_nvml
from llm_router.weights import weights_size
from llm_router.yaml_edit import set_value

if TYPE_CHECKING:
    from llm_router.config.schema import Model

POLICIES = ("stop", "discard", "sleep", "unload")
LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
"""GB/s of one PCI Express lane, by its generation."""
PARALLEL = ("tensor-parallel-size", "tp-size", "tp")
GOES = ("Stop", "Sleep", "Unload")
COMES = ("Activate", "Start", "Wake", "Load")


@dataclass
class Times:
    """Of one model by one policy; seconds of each step, a list entry a round."""

    model: str
    policy: str
    bound: float | None
    steps: dict[str, list[float]] = field(default_factory=dict)
    problem: str = ""
    taken: str = "-"
    """How it went, as the router saw it: a model that does not fit is stopped all the same."""

    def note(self, steps: Sequence[dict[str, Any]], kinds: Sequence[str]) -> None:
        for kind in kinds:
            self.steps.setdefault(kind, []).append(_sum(steps, self.model, (kind,)))

    def median(self, *kinds: str) -> float:
        rounds = zip(*(self.steps.get(kind, []) for kind in kinds), strict=True)
        return quantile([sum(one) for one in rounds], 0.5)


def _sum(steps: Sequence[dict[str, Any]], model: str, kinds: Sequence[str]) -> float:
    return sum(
        float(one["seconds"]) for one in steps if one["model"] == model and one["step"] in kinds
    )


def bus() -> float | None:
    """GB/s that one GPU of this host can be sent, None where nobody says."""
    nvml = open_nvml()
    if nvml is None:
        return None
    speeds = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            lane = LANE.get(nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu))
            if lane is not None:
                speeds.append(lane * nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu))
    except nvml.NVMLError:
        pass
    return min(speeds, default=None)


def bound_of(model: Model, speed: float | None) -> float | None:
    """Seconds that the model's weights take over the bus to all of its GPUs."""
    weights = weights_size(model.model_path)
    if weights is None or speed is None:
        return None
    gpus = next((model.settings[key] for key in PARALLEL if key in model.settings), 1)
    return weights / 1e9 / speed / (gpus if isinstance(gpus, int) and gpus > 0 else 1)


@contextlib.contextmanager
def with_policy(
    client: AdminClient, path: Path, models: Sequence[str], policy: str
) -> Iterator[None]:
    """models.yml says so for ``models`` within the block, and what it said before after it."""
    before = path.read_text(encoding="utf-8")
    text = before
    for name in models:
        text = set_value(text, ("models", name, "residency"), policy)
    try:
        _write(path, text)
        client.call("POST", "/admin/reload", body={}, timeout=60)
        yield
    finally:
        _write(path, before)
        client.call("POST", "/admin/reload", body={}, timeout=60)


def _write(path: Path, text: str) -> None:
    """In one step, with the owner and mode of the file that is there."""
    status = path.stat()
    aside = path.with_suffix(".policies")
    aside.write_text(text, encoding="utf-8")
    aside.chmod(status.st_mode)
    os.chown(aside, status.st_uid, status.st_gid)
    aside.replace(path)


def measure(
    settings: Settings,
    client: AdminClient,
    *,
    names: Sequence[str],
    policies: Sequence[str],
    rounds: int,
    speed: float | None,
) -> list[Times]:
    """All of it. What goes wrong is in the row."""
    found = []
    for policy in policies:
        for name in names:
            model = settings.models[name]
            if policy != "stop" and policy not in engine_for(model).residencies:
                continue
            group = [one for one in settings.models.values() if one.group == model.group]
            others = [one.name for one in group if one.name != name]
            row = Times(name, policy, bound_of(model, speed))
            found.append(row)
            if not others:
                row.problem = "no other model in its group to make way for"
                continue
            with with_policy(client, settings.models_path, [name], policy):
                _rounds(client, row, others[0], rounds)
    return found


def _rounds(client: AdminClient, row: Times, other: str, rounds: int) -> None:
    try:
        _switch(client, row.model)
        for number in range(rounds + 1):
            away = _switch(client, other)
            back = _switch(client, row.model)
            if number == 0:  # a first sleep takes longer than those after it
                continue
            row.note(away, (*GOES, "WaitForMemory"))
            row.note(back, (*COMES, "WaitUntilReady", "WarmUp"))
            taken = [one["step"] for one in away if one["model"] == row.model]
            row.taken = next((step for step in reversed(taken) if step in GOES), "-")
    except Failed as failed:
        row.problem = str(failed)


def _switch(client: AdminClient, model: str) -> list[dict[str, Any]]:
    answer = client.call("POST", "/admin/switch", body={"model": model}, timeout=None)
    return list(answer["steps"])


def table(found: Sequence[Times]) -> list[str]:
    """Lines, seconds; ``back`` is all of the coming back, and ``x bus`` that by the bound."""
    heads = ("model", "policy", "went by", "go", "memory", "come", "ready", "token", "back")
    lines = ["  ".join(f"{head:>9}" for head in heads) + "    bus bound    x bus"]
    for row in found:
        if row.problem or not row.steps:
            lines.append(f"{row.model:>9}  {row.policy:>9}  {row.problem or 'no times'}")
            continue
        back = row.median(*COMES, "WaitUntilReady", "WarmUp")
        seconds = (
            row.median(*GOES),
            row.median("WaitForMemory"),
            row.median(*COMES),
            row.median("WaitUntilReady"),
            row.median("WarmUp"),
            back,
        )
        cells = [row.model, row.policy, row.taken, *(f"{one:.2f}" for one in seconds)]
        line = "  ".join(f"{cell:>9}" for cell in cells)
        known = row.bound is not None
        bound = f"{row.bound:.2f}" if known else "-"
        times = f"{back / row.bound:.1f}" if row.bound else "-"
        lines.append(f"{line}    {bound:>9}    {times:>5}")
    return lines


def main() -> int:
    """0 when every row has its times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", type=Path, default=Path("/etc/llm-router/config.yml"))
    parser.add_argument("--models", help="of these alone, with commas between them")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bus", type=float, help="GB/s to one GPU, where NVML does not say it")
    options = parser.parse_args()
    settings = load_settings(options.config)
    names = options.models.split(",") if options.models else list(settings.models)
    if unknown := set(names) - settings.models.keys():
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    speed = options.bus or bus()
    print(f"machine   {machine()}")
    print(f"bus       {f'{speed:.1f} GB/s to a GPU' if speed else 'not known'}")
    # whoever ends it, models.yml is put back
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    client = AdminClient(settings.config.admin_socket)
    found = measure(
        settings,
        client,
        names=names,
        policies=options.policies.split(","),
        rounds=options.rounds,
        speed=speed,
    )
    print("\n".join(table(found)))
    return 1 if any(row.problem for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
