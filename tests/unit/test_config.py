"""Broken configuration: every problem says file, line, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_router.cli import main
from llm_router.config import ConfigError, Settings, load_settings
from llm_router.engines import engine_for

GOOD = """\
schema: 1
models:
  mistral-large-2411-awq:
    backend: sglang                       # a comment
    script: /opt/llm/start_mistral.sh
    service: sglang.service
  monstral-123b-exl2-4bpw:
    backend: tabby
    service: tabbyapi.service
    model_name: Monstral-123B-v2-exl2-4.0bpw
  org/gemma:3:
    backend: llamacpp
    service: llamacpp@gemma.service
    model_path: /srv/models/gemma.gguf
    args: [--ctx-size, 4096, --temp, 0.5]
    status: off
"""


def settings_of(tmp_path: Path, models: str = GOOD, config: str = "", keys: str = "") -> Settings:
    (tmp_path / "config.yml").write_text(config)
    (tmp_path / "models.yml").write_text(models)
    if keys:
        (tmp_path / "keys.yml").write_text(keys)
    return load_settings(tmp_path / "config.yml")


def problem(tmp_path: Path, models: str = GOOD, config: str = "", keys: str = "") -> list[str]:
    """The problems, without the directory."""
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, models, config, keys)
    return [str(item).replace(f"{tmp_path}/", "") for item in caught.value.problems]


def test_the_designs_own_example_is_valid(tmp_path: Path) -> None:
    models = settings_of(tmp_path).models
    assert models["mistral-large-2411-awq"].base_url == "http://127.0.0.1:30000"
    assert models["monstral-123b-exl2-4bpw"].upstream_name == "Monstral-123B-v2-exl2-4.0bpw"
    assert models["org/gemma:3"].args == ["--ctx-size", "4096", "--temp", "0.5"]
    assert models["org/gemma:3"].status == "off"


def test_yaml_of_ansible_may_have_made_off_false(tmp_path: Path) -> None:
    models = settings_of(tmp_path, GOOD.replace("status: off", "status: false")).models
    assert models["org/gemma:3"].status == "off"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "backend: tabby",
            "backend: taby",
            "models.yml:8: models.monstral-123b-exl2-4bpw.backend: 'taby' is not a valid value; "
            "use 'sglang', 'vllm', 'tabby', 'llamacpp' or 'command'",
        ),
        (
            "    service: tabbyapi.service\n",
            "",
            "models.yml:7: models.monstral-123b-exl2-4bpw.service: is missing; name the systemd "
            "unit that runs it, for example `service: tabbyapi@monstral-123b-exl2-4bpw.service`",
        ),
        (
            "service: tabbyapi.service",
            "service: tabbyapi",
            "models.yml:9: models.monstral-123b-exl2-4bpw.service: 'tabbyapi' has not the right "
            "form; name a systemd unit, for example `sglang.service` or `llamacpp@NAME.service`",
        ),
        (
            "    model_path: /srv/models/gemma.gguf\n",
            "",
            "models.yml:11: models.org/gemma:3.model_path: is missing; name the GGUF file, for "
            "example `model_path: /srv/models/NAME.gguf`, or the `repo:` and `files:` to download "
            "it from",
        ),
        (
            "args: [--ctx-size, 4096, --temp, 0.5]",
            "args: --ctx-size 4096",
            "models.yml:15: models.org/gemma:3.args: is the text '--ctx-size 4096'; "
            "should be a list",
        ),
        (
            "    model_path: /srv/models/gemma.gguf\n",
            "    repo: ggml/gemma\n    files: ['*Q4*.gguf']\n",
            "models.yml:15: models.org/gemma:3.files: does not begin with the name of a GGUF file; "
            "name the one that llama.cpp is to load first, for example `files: [NAME-Q4_K_M.gguf]`",
        ),
        (
            "    model_path: /srv/models/gemma.gguf\n",
            "    model_path: /data/gemma.gguf\n    repo: ggml/gemma\n",
            "models.yml:14: models.org/gemma:3.model_path: is not in /srv/models/ggml/gemma, where "
            "ggml/gemma is downloaded to; leave it out, or leave out `repo:`",
        ),
        (
            "    service: sglang.service\n",
            "    service: sglang.service\n    revision: main\n",
            "models.yml:7: models.mistral-large-2411-awq.revision: is for a download, and there is "
            "no `repo`; add `repo:`",
        ),
        (
            "    service: sglang.service\n",
            "    service: sglang.service\n    repo: huggingface.co/org/name\n",
            "models.yml:7: models.mistral-large-2411-awq.repo: 'huggingface.co/org/name' has not "
            "the right form; name a repository of the hub, for example `Qwen/Qwen3-32B-AWQ`",
        ),
        (
            "    model_path: /srv/models/gemma.gguf\n",
            "    repo: ggml/gemma\n    files: [../gemma.gguf]\n",
            "models.yml:15: models.org/gemma:3.files.0: is no path or pattern of a file in a "
            "repository; change '../gemma.gguf'",
        ),
        (
            "status: off",
            "timout: 3",
            "models.yml:16: models.org/gemma:3.timout: is not a known key; did you mean `timeout`? "
            "known keys: backend, service, script, model_name, model_path, repo, revision, files, "
            "command, args, settings, config_file, api_key_file, port, timeout, "
            "status, group, gpus, environment, ttl, residency, preload, warm_up, repairs, aliases, "
            "variants, defaults, force, strip, context_length, display_name, description, tags, "
            "upstream_paths",
        ),
        (
            "status: off",
            "repairs: {rol: true}",
            "models.yml:16: models.org/gemma:3.repairs.rol: is not a known key; "
            "did you mean `role`? known keys: role, done, reasoning, usage_apart",
        ),
        (
            "status: off",
            "variants: {precise: {forced: {}}}",
            "models.yml:16: models.org/gemma:3.variants.precise.forced: is not a known key; "
            "did you mean `force`? known keys: defaults, force, strip",
        ),
        (
            "status: off",
            "aliases: [gemma, gemma]",
            "models.yml:16: models.org/gemma:3.aliases.1: gemma is a name of this model already; "
            "give each model, alias and variant a name that nothing else has",
        ),
        (
            "status: off",
            "variants: {mistral-large-2411-awq: {}}",
            "models.yml:16: models.org/gemma:3.variants.mistral-large-2411-awq: "
            "mistral-large-2411-awq is a model already; "
            "give each model, alias and variant a name that nothing else has",
        ),
        (
            "status: off",
            "force: {stream: true}",
            "models.yml:16: models.org/gemma:3.force.stream: stream is not a parameter of the "
            "model; clients choose how they are answered; leave it out",
        ),
        (
            "status: off",
            "variants: {precise: {strip: [model]}}",
            "models.yml:16: models.org/gemma:3.variants.precise.strip.model: model is not a "
            "parameter of the model; name the engine's model as `model_name:`",
        ),
        (
            "status: off",
            "upstream_paths: [GET version]",
            "models.yml:16: models.org/gemma:3.upstream_paths.0: 'GET version' has not the right "
            "form; give a method and a path, for example `GET /version`",
        ),
        (
            "status: off",
            "defaults: {temperature: .inf}",
            "models.yml:16: models.org/gemma:3.defaults: has a number that JSON cannot say; "
            "change {'temperature': inf}",
        ),
        (
            "status: off",
            "port: '8080'",
            "models.yml:16: models.org/gemma:3.port: is the text '8080'; should be a whole number",
        ),
        (
            "  org/gemma:3:",
            "  monstral-123b-exl2-4bpw:",
            "models.yml:11: monstral-123b-exl2-4bpw: is there twice; keep one of the two, or give "
            "the other a name of its own",
        ),
        (
            "  org/gemma:3:",
            "  -gemma:",
            "models.yml:11: models.-gemma: '-gemma' has not the right form; a model's name has "
            "letters, digits and . _ - : / + @, and begins with a letter or a digit",
        ),
        (
            "  org/gemma:3:\n",
            "  org/gemma:3: [\n",
            "models.yml:13: is not valid YAML: while parsing a flow sequence, expected ',' or ']', "
            "but got ':'; check indentation, colons and quotes on this line and the one before it",
        ),
    ],
)
def test_what_is_wrong_where_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    (said,) = problem(tmp_path, GOOD.replace(old, new))
    assert said == expected


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    broken = GOOD.replace("backend: tabby", "backend: x").replace("status: off", "port: 0")
    assert len(problem(tmp_path, broken)) == 2


def test_one_instance_serves_one_model(tmp_path: Path) -> None:
    twice = GOOD + (
        "  copy:\n    backend: llamacpp\n    service: llamacpp@gemma.service\n    model_path: /x\n"
    )
    (said,) = problem(tmp_path, twice)
    assert "instance llamacpp@gemma.service belongs to org/gemma:3 already" in said


def test_models_that_share_a_unit_must_differ_in_something(tmp_path: Path) -> None:
    shared = GOOD + "  two:\n    backend: sglang\n    service: sglang.service\n"
    (said,) = problem(tmp_path, shared)
    assert said.startswith(
        "models.yml:19: models.two.service: sglang.service is the unit of mistral"
    )
    assert "give each of them a `model_path:` or a `script:`" in said
    assert (
        settings_of(tmp_path, shared + "    script: /opt/llm/start_two.sh\n").models["two"].script
    )


def test_a_group_preloads_one_model(tmp_path: Path) -> None:
    models = (
        "models:\n"
        "  a: {backend: vllm, service: a.service, preload: true}\n"
        "  b: {backend: vllm, service: b.service}\n"
        "  c:\n    backend: vllm\n    service: c.service\n    preload: true\n"
    )
    (said,) = problem(tmp_path, models)
    assert said.startswith("models.yml:7: models.c.preload: a is preloaded in group default")
    assert "keep `preload: true` for one of a and c" in said
    assert settings_of(tmp_path, models + "    group: second\n    port: 9000\n").models["c"].preload
    assert settings_of(tmp_path, models.replace("preload: true}", "preload: false}")).models


def test_an_empty_key_is_refused(tmp_path: Path) -> None:
    keys = (
        "keys:\n  - name: good\n    sha256: " + "a" * 64 + "\n"
        "  - name: webui\n"
        "    sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
    )
    (said,) = problem(tmp_path, keys=keys)
    assert said.startswith(
        "keys.yml:5: keys.1.sha256: is the sha256 of nothing: the key of webui was empty; "
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "host.example"])
def test_an_open_address_without_a_key_is_refused(tmp_path: Path, host: str) -> None:
    config = f"schema: 1\nlisten:\n  host: '{host}'\n"
    (said,) = problem(tmp_path, config=config)
    assert said.startswith(f"config.yml:3: listen.host: {host} is open to the network")
    assert "llm_router_allow_open" in said
    key = "keys:\n  - name: k\n    sha256: " + "a" * 64 + "\n"
    assert settings_of(tmp_path, config=config, keys=key).keys[0].scopes == ["use", "switch"]
    (tmp_path / "keys.yml").unlink()
    assert settings_of(tmp_path, config=config + "allow_open: true\n").config.allow_open


def test_child_units_need_what_a_child_is_started_with(tmp_path: Path) -> None:
    models = "models:\n  a: {backend: command, port: 9000}\n  b: {backend: vllm}\n"
    said = problem(tmp_path, models, "units: child\n")
    assert said[0].startswith("models.yml:2: models.a.command: is missing")
    assert said[1].startswith("models.yml:3: models.b.backend: vllm cannot run as a child process")


@pytest.mark.parametrize("backend", ["sglang", "vllm", "tabby", "llamacpp"])
def test_a_command_runs_any_backend_as_a_child(tmp_path: Path, backend: str) -> None:
    models = f"models:\n  a: {{backend: {backend}, command: [serve, x], args: [--port, 9000]}}\n"
    settings = settings_of(tmp_path, models, "units: child\n")
    model = settings.models["a"]
    command = engine_for(model).child_command(model, settings.config)
    assert command == ["serve", "x", "--port", "9000"]


def test_check_prints_the_problems_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings_of(tmp_path)
    config = str(tmp_path / "config.yml")
    assert main(["check", "--config", config]) == 0
    assert capsys.readouterr().out == "valid: 3 models, 0 keys\n"
    candidate = tmp_path / "candidate.yml"
    candidate.write_text("models:\n  a:\n")
    assert main(["check", "--config", config, "--models", str(candidate)]) == 1
    assert capsys.readouterr().err == (
        f"{candidate}:2: models.a: is empty; should be a mapping of keys to values\n"
    )
    missing = str(tmp_path / "nowhere.yml")
    assert main(["check", "--config", missing]) == 1
    assert "does not exist; create it" in capsys.readouterr().err


ENTRY = """\
models:
  a:
    backend: sglang
    service: sglang.service
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "sglang.service\n",
            "sglang.service\n    settings: {dtype: half}\n",
            "5: models.a.settings: has no effect without `model_path`; name the model's file or "
            "folder, for example `model_path: /srv/models/NAME`",
        ),
        (
            "sglang.service\n",
            "sglang.service\n    script: /s\n    settings: {dtype: half}\n",
            "6: models.a.settings: has no effect beside `script`; say it in the script, or take "
            "the script out",
        ),
        (
            "sglang.service\n",
            "odd.service\n    model_path: /m\n    settings: {dtype: half}\n",
            "2: models.a.config_file: is missing: nothing says which file odd.service reads; name "
            "the file, for example `config_file: /etc/NAME/config.yml`",
        ),
        (
            "backend: sglang\n",
            "backend: command\n    port: 1\n    settings: {dtype: half}\n",
            "5: models.a.settings: has no effect for a command; give the command its arguments as "
            "`args:`",
        ),
        (
            "sglang.service\n",
            "sglang.service\n    model_path: /m\n    settings:\n      port: 1\n",
            "7: models.a.settings.port: says port, which the router decides; say it as `port:`",
        ),
        (
            "sglang.service\n",
            "sglang.service\n    model_path: /m\n    args: [-tp, 2]\n",
            "6: models.a.args: has '-tp', which cannot be a key of the engine's YAML; write the "
            "long option's name and its value under `settings:`",
        ),
        (
            "sglang.service\n",
            "sglang.service\n    model_path: /m\n    settings: {--dtype: half}\n",
            "6: models.a.settings.--dtype: '--dtype' has not the right form; name an option "
            "without its dashes, for example `context-length`",
        ),
        (
            "sglang.service\n",
            "sglang.service\n    config_file: etc/x.yml\n",
            "5: models.a.config_file: 'etc/x.yml' has not the right form; give an absolute path, "
            "beginning with /",
        ),
        (
            "sglang.service\n",
            "sglang.service\n    model_path: /m\n"
            "  b:\n    backend: sglang\n    service: sglang.service\n    model_path: /n\n"
            "    config_file: /x.yml\n",
            "10: models.b.config_file: is another file than that of a, and sglang.service reads "
            "one; give every model of one unit the same `config_file:`",
        ),
        (
            "backend: sglang\n    service: sglang.service\n",
            "backend: tabby\n    service: tabbyapi.service\n"
            "  b:\n    backend: tabby\n    service: tabbyapi.service\n    model_path: /n\n",
            "8: models.b.model_path: is there for one of a and b only, and both are loaded by "
            "tabbyapi.service; give every model of one TabbyAPI a `model_path:`, or none",
        ),
        (
            "backend: sglang\n    service: sglang.service\n",
            "backend: tabby\n    service: tabbyapi.service\n    model_path: /m/a\n"
            "    model_name: b\n",
            "5: models.a.model_path: '/m/a' does not end with its model_name; TabbyAPI calls a "
            "model by its folder: use `model_path: …/b`",
        ),
        (
            "backend: sglang\n    service: sglang.service\n",
            "backend: tabby\n    service: tabbyapi.service\n    settings: {max_seq_len: 1}\n",
            "5: models.a.settings: has no effect without `model_path`; name the model's file or "
            "folder, for example `model_path: /srv/models/NAME`",
        ),
    ],
)
def test_what_no_engine_could_read(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert problem(tmp_path, ENTRY.replace(old, new)) == [f"models.yml:{expected}"]


SHARED = """\
models:
  a: {backend: tabby, service: tabbyapi.service}
  b: {backend: tabby, service: tabbyapi.service, model_name: sub/B}
  c: {backend: sglang, service: sglang.service, model_path: /c, settings: {tp-size: 2}}
  d: {backend: sglang, service: sglang.service, script: /d.sh}
  e: {backend: vllm, service: odd.service, config_file: /e.yml, model_path: /e}
  f: {backend: vllm, service: odd.service, config_file: /e.yml, model_path: /f}
  g: {backend: vllm, service: vllm.service, args: [-tp, 2]}
  h: {backend: tabby, service: tabbyapi-exl2.service, model_path: /m/The-Folder/}
  i: {backend: llamacpp, service: l.service, config_file: /l.env, model_path: /l, settings: {c: 1}}
"""


def test_models_share_a_unit_where_its_file_says_which_one_it_loads(tmp_path: Path) -> None:
    models = settings_of(tmp_path, SHARED).models
    assert models["b"].upstream_name == "sub/B"
    assert models["h"].upstream_name == "The-Folder"
    assert models["c"].settings == {"tp-size": 2}


def test_two_names_for_one_tabby_model_are_no_two_models(tmp_path: Path) -> None:
    (said,) = problem(tmp_path, SHARED.replace("model_name: sub/B", "model_name: a"))
    assert said.startswith("models.yml:3: models.b.service: tabbyapi.service is the unit of a too")
    assert "`service: tabbyapi@NAME.service`" in said


SHA = "0123456789abcdef0123456789abcdef01234567"
DOWNLOADED = """\
models:
  awq: {backend: sglang, service: sglang@awq.service, repo: Qwen/Qwen3-AWQ}
  pinned: {backend: vllm, service: vllm@p.service, repo: org/pinned, revision: COMMIT}
  exl2-4: {backend: tabby, service: tabbyapi.service, repo: org/exl2, revision: 4.0bpw}
  gguf: {backend: llamacpp, service: llamacpp@g.service, repo: org/gguf, files: [a/1.gguf, "a/*"]}
  part: {backend: vllm, service: vllm@x.service, repo: org/x, model_path: /m/org/x/sub}
""".replace("COMMIT", SHA)


def test_a_downloaded_models_path_follows_from_its_repository(tmp_path: Path) -> None:
    models = settings_of(tmp_path, DOWNLOADED, "models_dir: /m\n").models
    assert {name: model.model_path for name, model in models.items()} == {
        "awq": "/m/Qwen/Qwen3-AWQ",
        "pinned": "/m/org/pinned",
        "exl2-4": "/m/org/exl2@4.0bpw",
        "gguf": "/m/org/gguf/a/1.gguf",
        "part": "/m/org/x/sub",
    }


def test_one_place_has_one_revision(tmp_path: Path) -> None:
    two = DOWNLOADED + "  other: {backend: vllm, service: vllm@o.service, repo: org/pinned}\n"
    assert problem(tmp_path, two) == [
        "models.yml:6: models.part.model_path: is not in /srv/models/org/x, where org/x is "
        "downloaded to; leave it out, or leave out `repo:`",
        "models.yml:7: models.other.revision: pinned wants another revision of org/pinned in "
        "/srv/models/org/pinned; give both the same commit, or name branches or tags, which have "
        "their own places",
    ]


def entries(**entries: str) -> str:
    return "models:\n" + "".join(
        f"  {name}:\n    backend: {text.replace('; ', chr(10) + '    ')}\n"
        for name, text in entries.items()
    )


SLEEPS = "residency: sleep"
STOPS = "residency: stop"


@pytest.mark.parametrize(
    ("models", "config", "said"),
    [
        (
            entries(
                a="sglang; service: a.service; port: 8080",
                b="llamacpp; service: b.service; model_path: /b.gguf; group: two; port: 8080",
            ),
            "",
            "models.yml:11: models.b.port: port 8080 is already used by model 'a'; "
            "give one of them another port",
        ),
        (
            entries(a="sglang; service: a.service", b="sglang; service: b.service; group: two"),
            "",
            "models.yml:5: models.b.port: port 30000 is already used by model 'a'; "
            "give one of them another port",
        ),
        (
            entries(
                a="vllm; service: a.service; port: 9000; args: [--enable-sleep-mode]",
                b=f"sglang; service: b.service; port: 9000; {STOPS}",
            ),
            "",
            "models.yml:10: models.b.port: port 9000 is already used by model 'a', and the engine "
            "of 'a' keeps it while that model sleeps (residency); give one of them another port",
        ),
        (
            entries(
                a=f"sglang; service: a.service; {STOPS}", b=f"sglang; service: b.service; {SLEEPS}"
            ),
            "",
            "models.yml:6: models.b.port: port 30000 is already used by model 'a', and the engine "
            "of 'b' keeps it while that model sleeps (residency); give one of them another port",
        ),
        (
            entries(a="command; service: a.service; port: 8002"),
            "",
            "models.yml:5: models.a.port: port 8002 is the router's own (listen.port); "
            "give the model another port",
        ),
        (
            entries(a="vllm; service: a.service"),
            "listen: {host: 0.0.0.0, port: 8000}\nallow_open: true\n",
            "models.yml:2: models.a.port: port 8000 is the router's own (listen.port); "
            "give the model another port",
        ),
        (
            entries(a="command; command: [x]; port: 9000", b="command; command: [x]; port: 9000"),
            "units: child\n",
            None,
        ),
        (entries(a="sglang; service: a.service", b="sglang; service: b.service"), "", None),
        (
            entries(a="llamacpp; service: llamacpp@a.service; model_path: /a; residency: sleep")
            + entries(b="llamacpp; service: llamacpp@b.service; model_path: /b")[8:],
            "",
            None,
        ),
        (
            entries(
                a="tabby; service: tabbyapi.service; model_name: A; residency: unload",
                b="tabby; service: tabbyapi.service; model_name: B; residency: unload",
            ),
            "",
            None,
        ),
        (
            entries(a="command; service: a.service; port: 8002"),
            "listen: {host: 10.0.0.5}\nallow_open: true\n",
            None,
        ),
    ],
)
def test_two_engines_on_one_port(
    tmp_path: Path, models: str, config: str, said: str | None
) -> None:
    """Only where both could run at once, or one of them is the router itself."""
    if said is None:
        settings_of(tmp_path, models, config)
    else:
        assert problem(tmp_path, models, config) == [said]


def test_a_first_load_may_not_have_less_time_than_later_ones(tmp_path: Path) -> None:
    config = "switch:\n  timeout: 7200\n"
    # valid before the key was there
    assert settings_of(tmp_path, config=config).config.switch.timeout == 7200
    assert problem(tmp_path, config=f"{config}  first_timeout: 3600\n") == [
        "config.yml:3: switch.first_timeout: 3600 s is less than switch.timeout, 7200 s; the first "
        "load of a model takes longer than later ones: set it to at least 7200, or leave it out"
    ]


@pytest.mark.parametrize("name", ["a//b", "a/", "a/./b", "a/.", "a/../b", "a/.."])
def test_a_name_that_no_url_reaches_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yml").touch()
    entry = "{backend: command, service: x.service, port: 9000"
    for models in (
        f"models:\n  {name}: {entry}}}\n",
        f"models:\n  ok: {entry}, aliases: [{name}]}}\n",
        f"models:\n  ok: {entry}, variants: {{{name}: {{}}}}}}\n",
    ):
        (tmp_path / "models.yml").write_text(models)
        with pytest.raises(ConfigError, match="cannot be part of a URL"):
            load_settings(tmp_path / "config.yml")


@pytest.mark.parametrize("name", ["a/b", "a.b/c..d", "Qwen/Qwen3-32B@v1", "a..", "a/.hidden"])
def test_a_name_with_slashes_and_dots_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yml").touch()
    text = f"models:\n  {name}: {{backend: command, service: x.service, port: 9000}}\n"
    (tmp_path / "models.yml").write_text(text)
    assert list(load_settings(tmp_path / "config.yml").models) == [name]


@pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]", "0:0:0:0:0:0:0:1", "::1"])
def test_loopback_is_loopback_in_all_its_forms(tmp_path: Path, host: str) -> None:
    (tmp_path / "config.yml").write_text(f"listen: {{host: '{host}'}}\n")
    (tmp_path / "models.yml").write_text("models: {}\n")
    assert load_settings(tmp_path / "config.yml").config.listen.host == "::1"


@pytest.mark.parametrize("origin", ["https://app.example.org/", "app.example.org", "https://A.org"])
def test_an_origin_is_spelled_as_browsers_do(tmp_path: Path, origin: str) -> None:
    config = f'listen: {{origins: ["http://localhost:3000", "{origin}"]}}'
    assert problem(tmp_path, config=config) == [
        f"config.yml:1: listen.origins.1: '{origin}' has not the right form; give a scheme, `://` "
        "and a host, in lower case, as in `https://app.example.org`"
    ]
