"""What is read out of unit files, start scripts and engines' settings."""

from __future__ import annotations

import pytest

from llm_router.discovery.commands import launch_of, recognise, script_launch, without_options
from llm_router.discovery.settings import read_settings
from llm_router.discovery.units import command_line, parse_environment, parse_unit


def test_a_drop_in_replaces_exec_start_and_adds_to_the_environment() -> None:
    unit = parse_unit(
        [
            ("/u/x.service", "[Unit]\nExecStart=no\n[Service]\nExecStart=/a \\\n  # c\n  --b\n"
                             'Environment="A=1 2" B=3\nEnvironmentFile=-/etc/default/x\n'),
            ("/u/x.service.d/o.conf", "[Service]\nExecStart=\nExecStart=-/c\nEnvironment=B=4\n"),
        ]
    )  # fmt: skip
    assert unit.exec_start == "-/c"
    assert unit.exec_from == "/u/x.service.d/o.conf"
    assert unit.environment == {"A": "1 2", "B": "4"}
    assert unit.environment_files == ("/etc/default/x",)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("@-/bin/x 'a b' \"c d\"", ["/bin/x", "a b", "c d"]),
        ("/bin/x $ARGS end", ["/bin/x", "--a", "b c", "end"]),
        ("/bin/x ${ARGS} 100%%", ["/bin/x", "--a 'b c'", "100%"]),
        ("/bin/x --c /etc/%i.yml %n", ["/bin/x", "--c", "/etc/i-1.yml", "x@i-1.service"]),
        ("/bin/x $NOWHERE it's", ["/bin/x", "it's"]),
    ],
)  # fmt: skip
def test_what_a_unit_starts(line: str, argv: list[str]) -> None:
    assert command_line(line, "x@i-1.service", {"ARGS": "--a 'b c'"}) == argv


def test_an_environment_file() -> None:
    text = "# c\nA=1\n B = 2 \nC=\"x 'y z'\"\nbroken\n;D=4\n"
    assert parse_environment(text) == {"A": "1", "B": "2", "C": "x 'y z'"}


@pytest.mark.parametrize(
    ("command", "backend", "model", "name", "port"),
    [
        ("python3 -m sglang.launch_server --model-path /m/a --port 3", "sglang", "/m/a", "/m/a", 3),
        ("/v/bin/sglang serve --model /m/a --served-model-name=b", "sglang", "/m/a", "b", 0),
        ("/v/bin/vllm serve org/model --port=8001", "vllm", "org/model", "org/model", 8001),
        ("env A=1 numactl -N 0 vllm serve /m/a --served-model-name x y", "vllm", "/m/a", "x", 0),
        ("python -m vllm.entrypoints.openai.api_server --model /m/a", "vllm", "/m/a", "/m/a", 0),
        ("llama-server -m /m/a.gguf -a b --port 8081", "llamacpp", "/m/a.gguf", "b", 8081),
        ("docker run -p [::1]:9:8 vllm/vllm-openai:v0.33 --model o/m", "vllm", "o/m", "o/m", 9),
        ("podman run ggml-org/llama.cpp:server -m /x --port 80", "llamacpp", "/x", "/x", 80),
        ("/opt/tabbyAPI/v/bin/python /opt/tabbyAPI/main.py --config /t.yml", "tabby", "", "", 0),
    ],
)  # fmt: skip
def test_an_engine_is_recognised(
    command: str, backend: str, model: str, name: str, port: int
) -> None:
    launch = recognise(command.split())
    assert launch is not None
    assert (launch.backend, launch.model, launch.name, launch.port) == (backend, model, name, port)
    assert launch.container == command.startswith(("docker", "podman"))


@pytest.mark.parametrize(
    "command", ["/usr/sbin/sshd -D", "python3 main.py", "vllm --version", "/opt/x/main.py --port 1"]
)
def test_what_is_no_engine(command: str) -> None:
    assert recognise(command.split(), directory="/opt/web") is None


SCRIPT = """\
#!/usr/bin/env bash
set -euo pipefail   # strict
source /opt/venv/bin/activate
export CUDA_VISIBLE_DEVICES=0,1 HF_HOME=/data/hf
ROOT=/srv/models
MODEL="${ROOT}/Mistral-AWQ"
cd "$ROOT" && echo starting
# vllm serve /wrong
SOME=1 exec python -m sglang.launch_server \\
  --model-path "$MODEL" \\
  --port ${PORT:-30001} --api-key s3cret --host 0.0.0.0 "$@"
"""


def test_a_start_script_is_followed_to_the_engine() -> None:
    launch = script_launch("/opt/s.sh", {}, "", {"/opt/s.sh": SCRIPT}.get)
    assert launch is not None
    assert launch.model == "/srv/models/Mistral-AWQ"
    assert (launch.port, launch.host, launch.devices) == (30001, "0.0.0.0", "0,1")
    assert (launch.directory, launch.script) == ("/srv/models", "/opt/s.sh")
    assert launch.wants_key
    assert "s3cret" not in repr(launch)


def test_scripts_that_call_scripts_and_shells_with_a_command() -> None:
    texts = {"/a.sh": "#!/bin/sh\nexec /b\n", "/b": "#!/bin/bash\nllama-server -m /m.gguf\n"}
    launch = launch_of(["/a.sh"], {}, "", texts.get)
    assert launch is not None
    assert launch.script == "/a.sh"
    inline = launch_of(
        ["/bin/bash", "-lc", "cd /x; exec vllm serve $M"], {"M": "/m"}, "", texts.get
    )
    assert inline is not None
    assert (inline.model, inline.directory, inline.script) == ("/m", "/x", "")
    loop = {"/l.sh": "#!/bin/sh\nexec /l.sh\n"}
    assert launch_of(["/l.sh"], {}, "", loop.get) is None


def test_a_variable_from_elsewhere_is_named() -> None:
    text = "#!/bin/bash\nvllm serve $MODEL --port 8000\n"
    launch = script_launch("/s.sh", {}, "", {"/s.sh": text}.get)
    assert launch is not None
    assert launch.unknown == ("MODEL",)
    assert launch.name == ""


def test_options_are_taken_out_with_their_values() -> None:
    argv = ["--port", "1", "--api_key=x", "-m", "/a", "--jinja", "--temp", "-1"]
    assert without_options(argv, ("--port", "--api-key", "-m")) == ["--jinja", "--temp", "-1"]


def test_settings_are_read_two_levels_deep() -> None:
    text = (
        "\ufeff# c\nnetwork:\n  host: 127.0.0.1   # here\n  port: 5000\n  api_servers: ['OAI']\n"
        "model:\n\n  model_name: \"a \\u00e4 # b\"\n  model_dir: 'it''s'\n  nested:\n    port: 9\n"
        "  empty:\n  nothing: ~\ntop-level: yes it is\nport: !!int 3\n"
    )
    assert read_settings(text) == {
        "network.host": "127.0.0.1",
        "network.port": "5000",
        "model.model_name": "a ä # b",
        "model.model_dir": "it's",
        "top-level": "yes it is",
    }
