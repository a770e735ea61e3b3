"""What the role tabbyapi says of hosts that it does not fit, by its own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.roundhouse.llm.plugins.filter.tabbyapi_fit import tabbyapi_fit

VARS = Path(__file__).resolve().parents[4] / "roles/tabbyapi/vars/main.yml"
KNOWN = yaml.safe_load(VARS.read_text(encoding="utf-8"))["__tabbyapi_known"]
EXL3, EXL2 = (KNOWN["flavors"][flavor]["commit"] for flavor in ("exl3", "exl2"))


def fit(*services: str, **given: Any) -> dict[str, Any]:
    units = given.pop("units", [{"service": name} for name in services or ("tabbyapi.service",)])
    wish = {"flavor": "exl3", "versions": {}, "cuda": 12, "gpu": True}
    host = {
        "name": "gpu1",
        "architecture": "x86_64",
        "glibc": "2.39",
        "driver": "570.86.10",
        "no_driver": "nvidia-smi: not found",
        "compute_capabilities": ["8.6"],
        "amd": False,
    }
    for name, value in given.items():
        assert (name in wish) != (name in host)
        (wish if name in wish else host)[name] = value
    fitted: dict[str, Any] = tabbyapi_fit(units, wish, KNOWN, host)
    return fitted


def test_a_unit_is_of_the_flavor_that_its_name_or_its_entry_says() -> None:
    units = [
        {"service": "tabbyapi.service"},
        {"service": "tabbyapi-exl2.service"},
        {"service": "tabbyapi-exl3.service", "port": 5003},
        {"service": "tabbyapi-big.service", "flavor": "exl3", "config": {"model": {}}},
    ]
    fitted = fit(units=units, flavor="exl2")
    assert [(unit["stem"], unit["flavor"], unit["port"]) for unit in fitted["units"]] == [
        ("tabbyapi", "exl2", 5000),
        ("tabbyapi-exl2", "exl2", 5001),
        ("tabbyapi-exl3", "exl3", 5003),
        ("tabbyapi-big", "exl3", 5000),
    ]
    assert fitted["units"][3]["config"] == {"model": {}}
    assert fitted["problem"] == ""


def test_only_the_flavors_that_are_needed_are_installed() -> None:
    assert fit()["commits"] == {"exl3": EXL3}
    assert fit("tabbyapi-exl2.service")["commits"] == {"exl2": EXL2}
    both = fit("tabbyapi.service", "tabbyapi-exl2.service", versions={"exl3": "a" * 40})
    assert both["commits"] == {"exl2": EXL2, "exl3": "a" * 40}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"glibc": "2.35", "driver": "525.60.13", "compute_capabilities": ["8.0"]},
        {"cuda": 13, "driver": "580.65.06"},
        {"compute_capabilities": ["7.5", "10.0"]},  # one that will do is enough
        {"flavor": "exl2", "compute_capabilities": ["7.0"]},
        {"gpu": False, "driver": "", "compute_capabilities": [], "architecture": "aarch64"},
    ],
)
def test_a_host_that_it_fits(given: dict[str, Any]) -> None:
    assert fit(**given)["problem"] == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"driver": ""},
            "gpu1 has no working NVIDIA driver (nvidia-smi: not found), but TabbyAPI with CUDA 12 "
            "needs 525 or newer: install it (docs/gpu-host.md), or set tabbyapi_require_gpu to "
            "false if no GPU is "
            "meant to be there.",
        ),
        (
            {"driver": "470.256.02"},
            "gpu1 has NVIDIA driver 470.256.02, but TabbyAPI with CUDA 12 needs 525 or newer: "
            "install a newer driver.",
        ),
        (
            {"cuda": 13},
            "gpu1 has NVIDIA driver 570.86.10, but TabbyAPI with CUDA 13 needs 580 or newer: "
            "install a newer driver, or set tabbyapi_cuda to 12.",
        ),
        (
            {"compute_capabilities": ["7.5", "6.1"]},
            "gpu1 has no GPU of more than compute capability 7.5, but ExLlamaV3 with CUDA 12 needs "
            "8.0 or newer; what runs there: ExLlamaV2 (flavor exl2) with CUDA 12, llama.cpp.",
        ),
        (
            {"compute_capabilities": ["7.0"], "flavor": "exl2", "cuda": 13, "driver": "580.65.06"},
            "gpu1 has no GPU of more than compute capability 7.0, but ExLlamaV2 with CUDA 13 needs "
            "7.5 or newer; what runs there: ExLlamaV2 (flavor exl2) with CUDA 12, llama.cpp.",
        ),
        (
            {"compute_capabilities": []},
            "gpu1 has an NVIDIA driver, but it shows no GPU: see what nvidia-smi says.",
        ),
        (
            {"compute_capabilities": ["6.1"], "flavor": "exl2"},
            "gpu1 has no GPU of more than compute capability 6.1, but ExLlamaV2 with CUDA 12 needs "
            "7.0 or newer; what runs there: llama.cpp.",
        ),
        (
            {"glibc": "2.31"},  # Debian 11, Ubuntu 20.04
            "gpu1 has glibc 2.31, but the wheels of ExLlama need 2.35 or newer: use Debian 12, "
            "Ubuntu 22.04 or a later release, or llama.cpp or vLLM here.",
        ),
        (
            {"driver": "", "amd": True},
            "gpu1 has a GPU of AMD and no working NVIDIA driver (nvidia-smi: not found), but the "
            "wheels of ExLlama are for NVIDIA GPUs: use llama.cpp, which has builds for AMD; or "
            "install the NVIDIA driver 525 or newer if there is an NVIDIA GPU, too; or set "
            "tabbyapi_require_gpu to false if no GPU is meant to be there.",
        ),
        (
            {"architecture": "aarch64"},
            "gpu1 is aarch64, but the wheels of ExLlama are for x86_64 only.",
        ),
        (
            {"versions": {"exl3": "main"}},
            "tabbyapi_versions has main for exl3: name one of TabbyAPI's commits by its 40 "
            "hexadecimal digits.",
        ),
        (
            {"versions": {"gptq": EXL2}},
            "tabbyapi_versions has gptq, but the flavors are exl2 and exl3.",
        ),
        (
            {"units": [{"service": "exllama.service"}]},
            "tabbyapi_units has exllama.service: a unit's name must begin with tabbyapi and end "
            "with .service, with letters, digits and _ . - between them.",
        ),
        (
            {"units": [{"service": "tabbyapi.service"}, {"service": "tabbyapi.service"}]},
            "tabbyapi_units has tabbyapi.service twice: keep one of the two.",
        ),
    ],
)
def test_what_it_says_of_one_that_it_does_not(given: dict[str, Any], said: str) -> None:
    assert fit(**given)["problem"] == said
