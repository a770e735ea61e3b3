"""``gpus`` and ``environment`` of a model: from the configuration to its engine's process."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_router import activation, model_gpus
from llm_router.activation import run_activate
from llm_router.cli import main
from llm_router.config import ConfigError, Settings, load_settings
from llm_router.config.diff import compare, launch_id
from llm_router.config.schema import Config, Model
from llm_router.engine_environment import HostGpu
from llm_router.engine_files import EngineDirs, EngineFileError
from llm_router.engine_keys import known_keys
from llm_router.model_gpus import notes_on_groups
from llm_router.units.base import UnitError
from llm_router.units.child import ChildUnits

from .test_engine_environment import HOST, ONE, SLICE, TWO

SECRET = "hunter2-hunter2"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> list[HostGpu]:
    """Two GPUs, as the driver lists them."""
    gpus = list(HOST)
    monkeypatch.setattr(model_gpus, "read_host_gpus", lambda: gpus)
    return gpus


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {
        "backend": "sglang",
        "service": f"sglang@{name}.service",
        "model_path": f"/m/{name}",
        "port": 30000 + sum(map(ord, name)) % 1000,
        **more,
    }


def settings_of(tmp_path: Path, models: dict[str, Any], **config: Any) -> Settings:
    (tmp_path / "config.yml").write_text(json.dumps(config))
    (tmp_path / "models.yml").write_text(json.dumps({"models": models}, indent=1))
    return load_settings(tmp_path / "config.yml")


def problems(tmp_path: Path, models: dict[str, Any], **config: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, models, **config)
    return [str(item).replace(f"{tmp_path}/", "") for item in caught.value.problems]


# what the checker says


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gpus": [-1]}, "models.a.gpus.0: is not a GPU: use its number (0 to 63), or its UUID"),
        ({"gpus": [64]}, "models.a.gpus.0: is not a GPU"),
        ({"gpus": ["0"]}, "models.a.gpus.0: is not a GPU"),
        ({"gpus": [True]}, "models.a.gpus.0: is not a GPU"),
        ({"gpus": ["GPU-1234"]}, "models.a.gpus.0: is not a GPU"),
        ({"gpus": [f"{ONE},{TWO}"]}, "models.a.gpus.0: is not a GPU"),
        ({"gpus": 0}, "models.a.gpus: is the number 0; should be a list"),
        ({"gpus": [0, 0]}, "models.a.gpus: has 0 twice; list each GPU once"),
        ({"gpus": [ONE, ONE.upper()]}, "twice; list each GPU once"),
        ({"gpus": [SLICE, 0]}, "models.a.gpus: has a MIG slice beside another GPU"),
        ({"gpu": [0]}, "models.a.gpu: is not a known key; did you mean `gpus`?"),
        ({"environment": ["A=1"]}, "models.a.environment: is a list; should be a mapping"),
        ({"environment": {"A": True}}, "models.a.environment.A: is true; should be text"),
        ({"environment": {"A": None}}, "models.a.environment.A: is empty; should be text"),
        ({"environment": {"LD_PRELOAD": "/x"}}, "models.a.environment.LD_PRELOAD: could make a"),
        (
            {"environment": {"CUDA_VISIBLE_DEVICES": "0"}},
            "models.a.environment.CUDA_VISIBLE_DEVICES: says which GPUs the engine uses; list them "
            "as `gpus:`",
        ),
        (
            {"gpus": [0], "environment": {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}},
            "models.a.environment.CUDA_DEVICE_ORDER: is set by the router for `gpus:`",
        ),
        (
            {"environment": {"CUDA_HOME": "/opt/cuda"}},
            "models.a.environment.CUDA_HOME: is set by the unit; set sglang_cuda_toolkit",
        ),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_at_its_line(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    (problem,) = problems(tmp_path, {"a": entry("a", **more)})
    assert problem.startswith("models.yml:")
    assert said in problem


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_TOKEN": f"{SECRET}\nLD_PRELOAD=/x"},
        {"HF_TOKEN": [SECRET]},
        {"LD_PRELOAD": SECRET},
        {"HF_TOKEN": SECRET * 2000},
        {f"A{number}": SECRET for number in range(201)},
    ],
)
@pytest.mark.parametrize("units", ["systemd", "child"])
def test_no_message_has_a_value(tmp_path: Path, environment: dict[str, Any], units: str) -> None:
    given = entry("a", environment=environment, command=["x"])
    (problem,) = problems(tmp_path, {"a": given}, units=units)
    assert "environment" in problem
    assert SECRET not in problem


def test_two_groups_cannot_have_one_gpu(tmp_path: Path) -> None:
    models = {"a": entry("a", gpus=[0, 1]), "b": entry("b", gpus=[1], group="other")}
    (problem,) = problems(tmp_path, models)
    assert "models.b.gpus: has GPU 1, which a in group default uses too" in problem
    # in one group they take turns, with GPUs of their own each
    models["b"] = entry("b", gpus=[1])
    assert settings_of(tmp_path, models).models["b"].gpus == [1]


def test_a_group_can_be_defined_by_its_gpus(tmp_path: Path) -> None:
    groups = {"left": {"gpus": [0]}, "right": {"gpus": [TWO]}, "bare": {}}
    models = {
        "a": entry("a", group="left"),
        "b": entry("b", group="right"),
        "c": entry("c", group="left", gpus=[0]),
        "d": entry("d", group="bare"),
        "e": entry("e"),
    }
    made = settings_of(tmp_path, models, groups=groups).models
    assert [made[name].gpus for name in models] == [[0], [TWO], [0], [], []]


@pytest.mark.parametrize(
    ("groups", "more", "said"),
    [
        (
            {"g": {"gpus": [0]}},
            {"group": "g", "gpus": [1]},
            "has GPU 1, which group g does not have",
        ),
        ({"g": {"gpus": [0]}}, {"gpus": [0]}, "has GPU 0, which group g uses too"),
        ({"g": {"gpus": [0]}, "h": {"gpus": [0]}}, {}, "groups: has GPU 0 in g and in h"),
        ({"g": {"gpus": [0, 0]}}, {}, "groups.g.gpus: has 0 twice"),
        ({"g": {"gpu": [0]}}, {}, "groups.g.gpu: is not a known key; did you mean `gpus`?"),
    ],
)
def test_what_is_wrong_with_a_group(
    tmp_path: Path, groups: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    (problem,) = problems(tmp_path, {"a": entry("a", **more)}, groups=groups)
    assert said in problem


def test_a_group_that_sees_the_gpus_of_another_is_noted(tmp_path: Path) -> None:
    groups = {"left": {"gpus": [0]}}
    models = {"a": entry("a", group="left"), "b": entry("b", group="lef"), "c": entry("c")}
    found = notes_on_groups(settings_of(tmp_path, models, groups=groups).models)
    assert [note.partition(",")[0] for note in found] == [
        "model b in group lef lists no GPUs",
        "model c in group default lists no GPUs",
    ]
    assert "also those of group left; check its `group:`" in found[0]
    for quiet in ({"a": models["a"]}, {"b": models["b"], "c": models["c"]}):
        assert notes_on_groups(settings_of(tmp_path, quiet, groups=groups).models) == []


def test_an_empty_list_does_not_mean_all_gpus(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, {"a": entry("a", gpus=[])})
    assert "models.a.gpus: is empty" in problem
    assert "leave the key out" in problem


def test_one_process_cannot_serve_two_models_with_different_variables(tmp_path: Path) -> None:
    tabby = {"backend": "tabby", "service": "tabbyapi.service"}
    one = {**tabby, "model_path": "/m/one", "residency": "unload"}
    two = {**tabby, "model_path": "/m/two", "environment": {"A": "1"}}
    (problem,) = problems(tmp_path, {"one": one, "two": two})
    assert (
        "models.two.environment: differs from that of one, and with `residency: unload`" in problem
    )
    one["residency"] = "stop"
    settings_of(tmp_path, {"one": one, "two": two})


def test_the_examples_of_the_page_are_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/gpu-host.md").read_text(encoding="utf-8")
    models, config, _ = re.findall(r"(?s)```yaml\n(.*?)```", page)
    (tmp_path / "config.yml").write_text(config)
    (tmp_path / "models.yml").write_text(models)
    # left lists its own numbers again; right is 2 in the one and a UUID in the other
    assert [model.gpus for model in load_settings(tmp_path / "config.yml").models.values()] == [
        [0, 1],
        ["GPU-6e1c3b50-8b2e-4f43-9f3a-0c5d7c1a2b3d"],
    ]


# what stays as it was


def test_a_model_without_them_is_kept_and_launched_as_before() -> None:
    model = Model(
        name="a",
        backend="sglang",
        service="sglang@a.service",
        model_path="/m/a",
        settings={"dtype": "half"},
        port=30001,
    )
    # of the release before these keys: another id would forget all that was learned of a model
    assert launch_id(model) == "9b242a241e09"
    assert not {"gpus", "environment"} & model.model_dump(mode="json").keys()


def test_a_change_of_either_asks_for_a_restart_of_the_engine(tmp_path: Path) -> None:
    before = settings_of(tmp_path, {"a": entry("a"), "b": entry("b", group="g")})
    for more in ({"gpus": [0]}, {"environment": {"A": "1"}}):
        assert compare(before, settings_of(tmp_path, {"a": entry("a", **more)})).relaunch == ("a",)
    models = {"a": entry("a"), "b": entry("b", group="g")}
    after = settings_of(tmp_path, models, groups={"g": {"gpus": [1]}})
    assert compare(before, after).relaunch == ("b",)


# what activation writes


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineDirs:
    dirs = EngineDirs(str(tmp_path / "llamacpp"), str(tmp_path / "units"), str(tmp_path))
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(activation, "dirs_of", lambda _: dirs)
    return dirs


KEYLESS = {"engine_keys": {"sglang": None, "vllm": None, "tabby": None}}


@pytest.mark.parametrize(
    ("more", "visible"),
    [
        ({}, "CUDA_DEVICE_ORDER='PCI_BUS_ID' CUDA_VISIBLE_DEVICES='1'"),
        ({"backend": "vllm", "service": "vllm@a.service"}, "CUDA_VISIBLE_DEVICES='1'"),
        ({"backend": "llamacpp", "service": "llamacpp@a.service"}, f"DEVICES='{TWO}'"),
        ({"backend": "tabby", "service": "tabbyapi.service"}, f"DEVICES='{TWO}'"),
        ({"backend": "command", "service": "mine.service"}, "CUDA_VISIBLE_DEVICES='1'"),
        ({"script": "/opt/start.sh"}, "CUDA_VISIBLE_DEVICES='1'"),
    ],
)
def test_every_backends_unit_gets_a_file_that_root_alone_can_read(
    tmp_path: Path, directories: EngineDirs, more: dict[str, Any], visible: str
) -> None:
    given = {**entry("a"), "gpus": [1], "environment": {"HF_TOKEN": 'a "b" $c'}, **more}
    settings = settings_of(tmp_path, {"a": given}, **KEYLESS)
    result = run_activate(settings, None)
    folder = tmp_path / f"units/{settings.models['a'].unit}.d"
    written = (folder / "50-llm-router.env").read_text()
    assert visible.replace("'", '"') in written.replace("\n", " ")
    assert written.endswith('HF_TOKEN="a \\"b\\" \\$c"\n')
    assert stat.S_IMODE((folder / "50-llm-router.env").stat().st_mode) == 0o600
    drop_in = (folder / "50-llm-router.conf").read_text()
    assert f"\nEnvironmentFile={folder}/50-llm-router.env\n" in drop_in
    assert ("ExecStart=/opt/start.sh\n" in drop_in) == ("script" in more)
    assert "$c" not in json.dumps(result) + drop_in
    assert (
        f"+{visible.rsplit(maxsplit=1)[-1].split('=', maxsplit=1)[0].rsplit('_', maxsplit=1)[-1]}"
        not in drop_in
    )
    assert run_activate(settings, None)["changed"] is False


def test_a_file_of_variables_goes_with_the_last_of_them(
    tmp_path: Path, directories: EngineDirs
) -> None:
    run_activate(
        settings_of(tmp_path, {"a": entry("a", environment={"A": SECRET})}, **KEYLESS), None
    )
    folder = tmp_path / "units/sglang@a.service.d"
    assert len(list(folder.iterdir())) == 2
    result = run_activate(settings_of(tmp_path, {"a": entry("a")}, **KEYLESS), None)
    assert list(folder.iterdir()) == []
    assert SECRET not in json.dumps(result)
    # and is spoken of no more
    result = run_activate(settings_of(tmp_path, {"a": entry("a")}, **KEYLESS), None)
    assert [Path(file["path"]).name for file in result["files"]] == ["a.yml", "50-llm-router.conf"]


def test_a_changed_value_is_a_change_that_no_diff_shows(
    tmp_path: Path, directories: EngineDirs
) -> None:
    result: dict[str, Any] = {}
    # what Python takes for the end of a line is none to systemd
    for value in ("first-secret", "x\u2028second-secret", "x\x85CUDA_DEVICE_ORDER=second-secret"):
        models = {"a": entry("a", environment={"DB": value})}
        result = run_activate(settings_of(tmp_path, models, **KEYLESS), None)
        assert result["changed"] is True
        assert "-secret" not in json.dumps(result)
    (file,) = (each for each in result["files"] if each["path"].endswith(".env"))
    assert "only values that are not shown changed" in file["diff"]


def test_a_file_that_others_could_read_is_closed(tmp_path: Path, directories: EngineDirs) -> None:
    folder = tmp_path / "units/sglang@a.service.d"
    folder.mkdir()
    (folder / "50-llm-router.env").write_text("A=old\n")
    (folder / "50-llm-router.env").chmod(0o644)
    run_activate(
        settings_of(tmp_path, {"a": entry("a", environment={"A": "new"})}, **KEYLESS), None
    )
    assert stat.S_IMODE((folder / "50-llm-router.env").stat().st_mode) == 0o600


def test_models_of_one_unit_take_turns_in_its_variables(
    tmp_path: Path, directories: EngineDirs
) -> None:
    shared = {"service": "sglang.service", "port": 30000}
    models = {
        "one": entry("one", **shared, gpus=[0]),
        "two": entry("two", **shared, environment={"A": "2"}),
        "three": entry("three", **shared),
    }
    settings = settings_of(tmp_path, models, **KEYLESS)
    written = tmp_path / "units/sglang.service.d/50-llm-router.env"
    for name, text in {"one": 'DEVICES="0"', "two": 'A="2"', "three": ""}.items():
        run_activate(settings, [name])
        assert (text in written.read_text()) if text else not written.exists()


def test_a_gpu_that_is_not_there_stops_activation_before_anything_is_written(
    tmp_path: Path, directories: EngineDirs, host: list[HostGpu]
) -> None:
    settings = settings_of(tmp_path, {"a": entry("a", gpus=[1])}, **KEYLESS)
    host.pop()
    with pytest.raises(EngineFileError) as caught:
        run_activate(settings, None)
    assert str(caught.value) == (
        f"model a: gpus cannot be used: GPU 1 is not on this host; its GPUs are 0 ({ONE})"
    )
    assert list((tmp_path / "units").iterdir()) == []


def test_one_gpu_by_two_names_is_found_on_the_host(tmp_path: Path, directories: EngineDirs) -> None:
    models = {"a": entry("a", gpus=[1]), "b": entry("b", gpus=[TWO], group="other")}
    settings = settings_of(tmp_path, models, **KEYLESS)
    with pytest.raises(EngineFileError, match=f"gpus has the GPU {TWO}, which b in group other"):
        run_activate(settings, ["a"])


def test_a_unit_whose_name_systemd_would_read_as_a_pattern_is_refused(
    tmp_path: Path, directories: EngineDirs
) -> None:
    given = {"backend": "command", "service": "my\\x2dunit.service", "port": 9000, "gpus": [0]}
    with pytest.raises(EngineFileError, match="its name has a backslash"):
        run_activate(settings_of(tmp_path, {"a": given}, **KEYLESS), None)


# what is shown of it


def test_a_list_of_models_shows_names_and_no_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_of(tmp_path, {"a": entry("a", gpus=[1], environment={"HF_TOKEN": SECRET})})
    assert main(["models", "list", "--json", "--config", str(tmp_path / "config.yml")]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["models"]
    assert shown["gpus"] == [1]
    assert shown["environment"] == {"HF_TOKEN": "********"}
    assert SECRET not in repr(load_settings(tmp_path / "config.yml").models["a"])


def test_an_engine_that_logs_its_secret_is_masked(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, {"a": entry("a", environment={"HF_TOKEN": SECRET, "NCCL_DEBUG": "VERSION"})}
    )
    assert known_keys(settings.models, settings.config) >= {SECRET}
    assert "VERSION" not in known_keys(settings.models, settings.config)


# child units


@pytest.mark.anyio
async def test_a_child_is_started_with_them(tmp_path: Path) -> None:
    model = Model(
        name="a", backend="command", gpus=[1], environment={"GREETING": "a 'b' $c", "OTHER": ""}
    )
    config = Config.model_validate({"state_dir": str(tmp_path), "units": "child"})
    said = (
        'echo "$CUDA_DEVICE_ORDER|$CUDA_VISIBLE_DEVICES|$GREETING|${OTHER-unset}|$HOME"; sleep 60'
    )
    units = ChildUnits(config, {"a": model}, lambda _: ["sh", "-c", said])
    with anyio.fail_after(20):
        async with units:
            await units.start(model)
            while not (lines := await units.log_tail(model)):
                await anyio.sleep(0.01)
    assert lines == [f"PCI_BUS_ID|1|a 'b' $c||{os.environ['HOME']}"]


@pytest.mark.anyio
async def test_a_child_whose_gpu_is_not_there_is_refused_before_and_at_its_start(
    tmp_path: Path, host: list[HostGpu]
) -> None:
    model = Model(name="a", backend="command", gpus=[7])
    config = Config.model_validate({"state_dir": str(tmp_path), "units": "child"})
    async with ChildUnits(config, {"a": model}, lambda _: ["sleep", "60"]) as units:
        for act in (units.check, units.activate, units.start):
            with pytest.raises(UnitError, match="model a: gpus cannot be used: GPU 7 is not on"):
                await act(model)
        assert not (await units.state(model)).running
