"""Engines are uninstalled on a host: none is left running, and none of others' is touched.

    python tests/uninstall/uninstall.py [SUITE ...]

Boots a throwaway host of each release (trixie and forky by default), so it needs root. Units with
the roles' mark stand in for engines in every state: what is tested is systemd and the playbook.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SURE = "--extra-vars=roundhouse_uninstall=true roundhouse_uninstall_engines=true"

SETUP = r"""
set -eu
mkdir -p /opt/llamacpp/current /opt/sglang/current /opt/vllm/current /opt/own
llamacpp=/opt/llamacpp/current/llama-server
sglang=/opt/sglang/current/engine
vllm=/opt/vllm/current/engine
own=/opt/own/llama-server
for program in "$llamacpp" "$sglang" "$vllm" "$own"; do
    cp "$(command -v sleep)" "$program"
done
mark='# Written by the role roundhouse.llm'
unit() {
    printf '%s\n' "$2" '[Service]' "ExecStart=$3 100000" "${4-}" >"/etc/systemd/system/$1"
}
unit llamacpp@.service "$mark.llamacpp." "$llamacpp" Restart=on-failure
unit sglang.service "$mark.sglang." "$sglang" Type=notify
unit vllm.service "$mark.vllm." "$vllm"
unit vllm@.service "$mark.vllm." "$vllm"
unit llamacpp-own.service '# mine' "$own"
unit sglang@.service '# mine' "$own"
systemctl daemon-reload
# loaded, with a name that is escaped; asleep is the same to systemd; adopted; no unit of vllm@ runs
systemctl start llamacpp@a.service 'llamacpp@b\x2dc.service' vllm.service
systemctl start llamacpp-own.service sglang@mine.service
# loading for ever
systemctl start --no-block sglang.service
"""
RUNNING = (
    "systemctl list-units --all --full --plain --no-legend --type=service "
    "'llamacpp*' 'sglang*' 'vllm*' | awk '$3 != \"inactive\" && $3 != \"failed\" {print $1}'"
)
OLD = {"focal"}
"""Releases with Python 3.8."""
OURS = ["llamacpp@a.service", r"llamacpp@b\x2dc.service", "sglang.service", "vllm.service"]
THEIRS = ["llamacpp-own.service", "sglang@mine.service"]


def run(*command: str, fails: bool = False) -> str:
    """What it printed. Raises SystemExit if it ends otherwise than expected."""
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "true"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if (done.returncode != 0) != fails:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


@contextmanager
def host(suite: str) -> Iterator[str]:
    """A host of the release, for as long as the block runs."""
    name = f"gone{suite}"
    run("tests/hosts/hosts.py", "up", name, "--suite", suite)
    try:
        yield name
    finally:
        run("tests/hosts/hosts.py", "down", name)


def ssh(name: str, command: str) -> str:
    return run("tests/hosts/hosts.py", "ssh", name, "--", command)


def ansible(name: str) -> str:
    """The program that manages this host: the newest Ansible needs Python 3.9 there."""
    if name.removeprefix("gone") not in OLD:
        return "ansible-playbook"
    run("tools/bootstrap", "old")
    return ".cache/venvs/old/bin/ansible-playbook"


def uninstall(name: str, *arguments: str, fails: bool = False) -> str:
    return run(
        ansible(name),
        "playbooks/uninstall.yml",
        "--inventory=.cache/hosts/inventory.yml",
        f"--limit={name}",
        SURE,
        *arguments,
        fails=fails,
    )


def check(suite: str) -> None:
    """All that the playbook promises of running engines."""
    with host(suite) as name:
        ssh(name, SETUP)
        assert ssh(name, RUNNING).split() == sorted([*OURS, *THEIRS])

        uninstall(name, "--check")
        assert ssh(name, RUNNING).split() == sorted([*OURS, *THEIRS])

        # a process that survives its unit holds the device: nothing is deleted then
        drop_in = "/etc/systemd/system/vllm.service.d"
        ssh(name, f"mkdir -p {drop_in}; echo '[Service]' >{drop_in}/stays.conf")
        ssh(name, f"echo KillMode=none >>{drop_in}/stays.conf; systemctl daemon-reload")
        told = " ".join(uninstall(name, fails=True).split())
        assert "still running: vllm.service (processes " in told, told
        assert ssh(name, "ls /etc/systemd/system/vllm.service /opt/vllm").strip(), told
        ssh(name, f"rm -r {drop_in}; systemctl daemon-reload; pkill -f ^/opt/vllm/current/engine")

        # a unit whose file and program an earlier run has deleted
        ssh(name, "systemctl start llamacpp@lost.service")
        ssh(name, "rm -r /etc/systemd/system/llamacpp@.service /opt/llamacpp")
        ssh(name, "systemctl daemon-reload")
        uninstall(name)
        assert ssh(name, RUNNING).split() == THEIRS
        left = ssh(name, "pgrep -fa '^/opt/' || true; ls -d /opt/* /etc/systemd/system/*")
        deleted = ["/opt/llamacpp", "/opt/sglang", "/opt/vllm"]
        deleted += [f"/etc/systemd/system/{unit}" for unit in ("sglang.service", "vllm@.service")]
        for gone in deleted:
            assert gone not in left.split(), left
        again = uninstall(name)
        assert f"{name} : ok=" in " ".join(again.split()), again
        assert "changed=0" in again, again
    print(f"uninstall: {suite}: as it should be", flush=True)


def main(suites: list[str]) -> None:
    for suite in suites or ["trixie", "forky"]:
        check(suite)


if __name__ == "__main__":
    main(sys.argv[1:])
