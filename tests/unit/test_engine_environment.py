"""Which variables an engine can be given, and how it is told its GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.engine_environment import (
    HostGpu,
    UnknownGpu,
    is_secret,
    resolve,
    value_problem,
    variable_problem,
    visible_devices,
)
from llm_router.host_gpus import amd_cards, read_host_gpus

ONE = "GPU-11111111-aaaa-bbbb-cccc-000000000001"
TWO = "GPU-22222222-aaaa-bbbb-cccc-000000000002"
SLICE = "MIG-377e0049-554c-540b-93c6-d0976f8426cb"
HOST = [
    HostGpu("nvidia", 0, ONE, "0000:17:00.0"),
    HostGpu("nvidia", 1, TWO, "0000:65:00.0"),
]


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GLIBC_TUNABLES", "GCONV_PATH"),
        *("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PERL5LIB", "BASH_ENV", "BASH_FUNC_ls"),
        *("MODPROBE_OPTIONS", "OPENSSL_CONF", "GIT_SSH_COMMAND", "NODE_OPTIONS", "IFS"),
    ],
)
def test_what_makes_a_program_run_other_code_is_refused(name: str) -> None:
    what, _ = variable_problem(name) or ("", "")
    assert "runs as root" in what


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("PATH", "systemctl edit"),
        ("HOME", "systemctl edit"),
        ("CUDA_VISIBLE_DEVICES", "`gpus:`"),
        ("HIP_VISIBLE_DEVICES", "`gpus:`"),
        ("LLAMACPP_ARGS", "`settings:`"),
        ("VLLM_API_KEY", "`api_key_file:`"),
        ("LLM_ROUTER_CHILD", "leave it out"),
        ("NOTIFY_SOCKET", "leave it out"),
        ("SYSTEMD_LOG_LEVEL", "leave it out"),
        ("1ST", "begin with a letter"),
        ("A B", "letters, digits"),
        ("A=B", "letters, digits"),
        ("A\nExecStart", "letters, digits"),
        ("%i", "letters, digits"),
        ("", "letters, digits"),
        ("ÄNDERN", "letters, digits"),
    ],
)
def test_a_name_that_others_decide_is_refused_with_what_to_do(name: str, remedy: str) -> None:
    _, said = variable_problem(name) or ("", "")
    assert remedy in said


@pytest.mark.parametrize(
    "name",
    [
        *(
            "HF_TOKEN",
            "NCCL_P2P_DISABLE",
            "VLLM_ATTENTION_BACKEND",
            "SGLANG_X",
            "PYTORCH_ALLOC_CONF",
        ),
        *("CUDA_DEVICE_ORDER", "GGML_VK_VISIBLE_DEVICES", "OMP_NUM_THREADS", "http_proxy", "_X"),
        *("ENVIRONMENT", "PATHS", "HSA_OVERRIDE_GFX_VERSION", "GLOO_SOCKET_IFNAME"),
    ],
)
def test_an_engines_own_variables_are_its_models_to_set(name: str) -> None:
    assert variable_problem(name) is None


def test_a_value_stays_one_line_and_is_in_no_message() -> None:
    for value in ("hunter2\nExecStart=/bin/sh", "hunter2\0", "hunter2\x1b[2J", "hunter2\ud800"):
        problem = value_problem(value)
        assert problem is not None
        assert "hunter2" not in "".join(problem)
    assert value_problem("x" * 20_000) is not None
    for value in ("", " a  b ", "tab\there", "$HOME `id` %i \\x41 \"'", "ünï ⚡"):
        assert value_problem(value) is None


def test_a_secret_is_known_by_its_name() -> None:
    assert all(map(is_secret, ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "https_proxy")))
    assert not any(map(is_secret, ("NCCL_DEBUG", "OMP_NUM_THREADS", "CUDA_CACHE_PATH")))


def test_a_gpu_is_found_by_its_number_and_by_its_name() -> None:
    assert resolve([1, 0], HOST) == [HOST[1], HOST[0]]
    assert resolve([TWO.upper()], HOST) == [HOST[1]]
    (found,) = resolve([SLICE], HOST)
    assert found.uuid == SLICE


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ([2], f"GPU 2 is not on this host; its GPUs are 0 ({ONE}), 1 ({TWO})"),
        ([ONE.replace("1", "9")], "is not on this host; its GPUs are 0"),
        ([0, ONE], "the GPU at 0000:17:00.0 is listed twice"),
    ],
)
def test_a_gpu_that_is_not_there_is_named_with_those_that_are(
    gpus: list[int | str], said: str
) -> None:
    with pytest.raises(UnknownGpu) as caught:
        resolve(gpus, HOST)
    assert said in str(caught.value)


def test_without_a_driver_the_error_names_the_page() -> None:
    with pytest.raises(UnknownGpu, match=r"no driver shows any GPU here: see docs/gpu-host\.md"):
        resolve([0], [])


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        # both end at a UUID where a model has several GPUs
        ("sglang", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}),
        ("vllm", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}),
        ("command", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}),
        ("tabby", {"CUDA_VISIBLE_DEVICES": f"{TWO},{ONE}"}),
        ("llamacpp", {"CUDA_VISIBLE_DEVICES": f"{TWO},{ONE}"}),
    ],
)
def test_each_engine_is_told_its_gpus_as_it_reads_them(
    backend: str, expected: dict[str, str]
) -> None:
    assert visible_devices(resolve([1, 0], HOST), backend) == expected


def test_a_slice_goes_by_its_name_and_amds_gpus_by_number() -> None:
    assert visible_devices(resolve([SLICE], HOST), "vllm") == {"CUDA_VISIBLE_DEVICES": SLICE}
    amd = [HostGpu("amd", 0, "GPU-0123456789abcdef", "0000:03:00.0")]
    assert visible_devices(resolve(["GPU-0123456789ABCDEF"], amd), "vllm") == {
        "HIP_VISIBLE_DEVICES": "0"
    }
    # a driver that has not used the GPU since the boot does not tell its UUID
    untold = [HostGpu("nvidia", 0, "", "0000:17:00.0")]
    assert visible_devices(resolve([0], untold), "tabby") == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    assert visible_devices([], "vllm") == {}


def nvidia(root: Path, address: str, uuid: str) -> None:
    """A GPU as its driver shows it."""
    place = root / "proc/driver/nvidia/gpus" / address
    place.mkdir(parents=True)
    (place / "information").write_text(
        f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 182\nGPU UUID: \t {uuid}\n"
        f"Video BIOS: \t ??.??.??.??.??\nBus Type: \t PCIe\nBus Location: \t {address}\n"
        "Device Minor: \t 0\nGPU Firmware: \t 580.65.06\nGPU Excluded:\t No\n"
    )


def amd(root: Path, card: str, address: str, **files: str) -> Path:
    """A card as the kernel shows it: ``device`` is a link to its PCI device."""
    device = root / "sys/devices" / address
    device.mkdir(parents=True)
    for name, text in {"vendor": "0x1002", **files}.items():
        (device / name).write_text(f"{text}\n")
    (root / "sys/class/drm" / card).mkdir(parents=True)
    (root / "sys/class/drm" / card / "device").symlink_to(device)
    return device


def test_the_drivers_list_of_gpus_is_read_in_the_order_of_nvidia_smi(tmp_path: Path) -> None:
    nvidia(tmp_path, "0000:65:00.0", TWO)
    nvidia(tmp_path, "0000:17:00.0", ONE)
    nvidia(tmp_path, "0000:ca:00.0", "GPU-????????-????-????-????-????????????")
    assert read_host_gpus(tmp_path) == [*HOST, HostGpu("nvidia", 2, "", "0000:ca:00.0")]


def test_amds_gpus_are_those_with_memory_of_their_own(tmp_path: Path) -> None:
    memory = {"mem_info_vram_total": str(16 << 30)}
    amd(tmp_path, "card2", "0000:83:00.0", **memory, unique_id="0123456789ABCDEF")
    amd(tmp_path, "card1", "0000:03:00.0", **memory)
    amd(tmp_path, "card0", "0000:00:02.0", vendor="0x8086", **memory)  # another maker's
    amd(tmp_path, "card3", "0000:84:00.0")  # no memory of its own
    (tmp_path / "sys/class/drm/card2-DP-1").mkdir()  # a connector
    assert read_host_gpus(tmp_path) == [
        HostGpu("amd", 0, "", "0000:03:00.0"),
        HostGpu("amd", 1, "GPU-0123456789abcdef", "0000:83:00.0"),
    ]
    assert len(amd_cards(tmp_path)) == 2


def test_a_host_without_any_has_none(tmp_path: Path) -> None:
    assert read_host_gpus(tmp_path) == []
