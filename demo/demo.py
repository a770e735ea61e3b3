"""`make demo`: two models on one endpoint, from nothing to their answers; `make demo-down`: gone.

On a throwaway systemd host that site.yml provisions over SSH; where none can be booted, or with
HOST=no, on the embedded default: the same router with its engines as its own child processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from ruamel.yaml import YAML

from demo.progress import DemoError, Ticker, playbook, say

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".cache" / "demo"
CONTROL = ROOT / ".cache" / "venvs" / "control" / "bin"
EMBEDDED = ROOT / ".cache" / "venvs" / "embedded" / "bin" / "python"
SOURCES = ROOT / "roles" / "llm_router" / "files"
CACHE = Path(
    os.environ.get("ROUNDHOUSE_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roundhouse"
)
MODELS = CACHE / "models"
NAME = "demo"
HOSTS = [sys.executable, str(ROOT / "tests" / "hosts" / "hosts.py")]
MAY_NOT_BOOT = 3
START_TIMEOUT = 30.0


def main(command: str) -> int:
    os.chdir(ROOT)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        if command == "down":
            down()
            return 0
        STATE.mkdir(parents=True, exist_ok=True)
        why_not = why_no_host()
        if why_not:
            say(f"{why_not} So here is the same conversation on the embedded default.")
        base_url, hints = up_embedded() if why_not else up_host()
        talked = subprocess.run([sys.executable, "-m", "demo.talk", f"{base_url}/v1"], check=False)
        if talked.returncode:
            journal = ["tail", "-n", "20", str(STATE / "embedded.log")]
            if not why_not:
                journal = [*HOSTS, "ssh", NAME, "--", "journalctl -u 'llm*' -n 20 --no-pager"]
            subprocess.run(journal, check=False)
            raise DemoError("The conversation failed; above is the log of the router and engines.")
        print("\nBoth models answered. To try next:\n")
        print("\n".join(hints), flush=True)
        say("done")
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


def why_no_host() -> str | None:
    """One sentence why no host is booted; None when one may be."""
    if os.environ.get("HOST") == "no":
        return "HOST=no: no host is booted."
    doctor = subprocess.run([*HOSTS, "doctor"], capture_output=True, text=True, check=False)
    if doctor.returncode not in {0, MAY_NOT_BOOT}:
        raise DemoError(f"{doctor.stdout}{doctor.stderr}{HOSTS[1]} doctor failed.")
    if doctor.returncode == 0:
        return None
    reason = (doctor.stderr or doctor.stdout).strip().splitlines()[-1]
    return f"No host can be booted here ({reason.removeprefix('hosts: error: ')})."


def digest(*extra: object) -> str:
    """What the demo's result depends on: sources, settings, and what is passed in."""
    hashed = hashlib.sha256(repr(extra).encode())
    for folder in ("demo", "playbooks", "plugins", "roles"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                hashed.update(f"{path}\0".encode() + path.read_bytes())
    return hashed.hexdigest()


# On a host


def up_host() -> tuple[str, list[str]]:
    """Boot and provision the host, as far as it is not done yet; its address and what to try."""
    say(f"A throwaway Debian host named {NAME}, its model read from {MODELS}")
    booted = subprocess.run(
        [*HOSTS, "up", NAME, "--suite", "forky", "--bind", f"{MODELS}:/srv/models:ro"],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if booted.returncode:
        raise DemoError(
            "The host did not boot; the lines above say why. `make demo HOST=no` needs none."
        )
    listed = subprocess.run([*HOSTS, "list", "--json"], capture_output=True, text=True, check=True)
    host = next(entry for entry in json.loads(listed.stdout) if entry["name"] == NAME)
    inventory = STATE / "inventory.yml"
    subprocess.run(
        [*HOSTS, "inventory", NAME, "--output", str(inventory)],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    base_url = f"http://{host['address']}:8002"

    stamp, wanted = STATE / "provisioned", digest(host)
    if stamp.exists() and stamp.read_text() == wanted and answers(base_url):
        say("Nothing changed since it was provisioned: site.yml need not run")
    else:
        stamp.unlink(missing_ok=True)
        say("ansible-playbook playbooks/site.yml, over SSH")
        recap = playbook(site(), environment(), STATE / "site.log")
        say(f"Provisioned: {recap} (log: {short(STATE / 'site.log')})")
        stamp.write_text(wanted)
    ssh = "python3 tests/hosts/hosts.py ssh demo"
    switch = " ".join(short(Path(word)) for word in site())
    return base_url, [
        f"  {ssh} -- journalctl -u llm-router -n 20",
        f"  {ssh}",
        *curl_hints(base_url),
        f"  {ssh} -- llm-router switch gemma-facts",
        f"  ANSIBLE_CONFIG=demo/ansible.cfg {switch} --tags switch -e llm_model=gemma-poems",
        "  make demo-down",
    ]


def site() -> list[str]:
    """The command that provisions the host."""
    return [str(CONTROL / "ansible-playbook"), "playbooks/site.yml", "-e", "@demo/vars.yml"]


def environment() -> dict[str, str]:
    """ansible-playbook's environment: demo/ansible.cfg alone says how it runs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    utf8 = "UTF-8" in (kept.get("LC_ALL") or kept.get("LANG") or "")
    return {
        **kept,
        **({} if utf8 else {"LC_ALL": "C.UTF-8"}),
        "ANSIBLE_CONFIG": str(ROOT / "demo" / "ansible.cfg"),
        "PYTHONUNBUFFERED": "1",
    }


# Embedded


def up_embedded() -> tuple[str, list[str]]:
    """Start the router on this machine, if it does not run yet; its address and what to try."""
    subprocess.run(["tools/bootstrap", "embedded"], check=True)
    record = STATE / "embedded.json"
    wanted = digest()
    running = read(record)
    if running.get("digest") != wanted or not alive(running) or not answers(running["url"]):
        stop_embedded()
        running = start_embedded(record, wanted)
    config = STATE / "embedded" / "config.yml"
    command = f"PYTHONPATH={short(SOURCES)} {short(EMBEDDED)} -m llm_router"
    return running["url"], [
        f"  tail -f {short(STATE / 'embedded.log')}",
        *curl_hints(running["url"]),
        f"  {command} switch --config {short(config)} gemma-facts",
        "  make demo-down",
    ]


def start_embedded(record: Path, wanted: str) -> dict[str, str]:
    folder = STATE / "embedded"
    folder.mkdir(exist_ok=True)
    port, *engine_ports = free_ports(8002, 0, 0)
    url = f"http://127.0.0.1:{port}"
    yaml = YAML()
    models = yaml.load((ROOT / "demo" / "models.yml").read_text())
    for entry, engine_port in zip(models["models"].values(), engine_ports, strict=True):
        entry["model_path"] = str(MODELS / Path(entry["model_path"]).name)
        entry["port"] = engine_port
    yaml.dump(models, folder / "models.yml")
    # A socket's path is limited to 107 characters, and the checkout may lie deep.
    sockets = tempfile.mkdtemp(prefix="roundhouse-demo-")
    config = {
        "listen": {"host": "127.0.0.1", "port": port},
        "units": "child",
        "state_dir": str(folder / "state"),
        "admin_socket": f"{sockets}/admin.sock",
        "llamacpp_binary": "embedded",
        "status": {"interval": 1},
    }
    yaml.dump(config, folder / "config.yml")
    log = STATE / "embedded.log"
    say(f"The router on {url}, its engines as child processes (log: {short(log)})")
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(EMBEDDED), "-m", "llm_router", "serve", "--config", str(folder / "config.yml")],
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = {"pid": str(process.pid), "born": born(process.pid), "url": url, "sockets": sockets}
    record.write_text(json.dumps({**running, "digest": wanted}))
    with Ticker("waiting until the router listens"):
        until = time.monotonic() + START_TIMEOUT
        while not answers(url):
            if process.poll() is not None or time.monotonic() > until:
                tail = "\n".join(log.read_text().splitlines()[-20:])
                stop_embedded()
                raise DemoError(f"{tail}\n\nThe router did not come up; all it said is in {log}")
            time.sleep(0.05)  # between two looks
    return running


def stop_embedded() -> None:
    """End the router and wait until it is gone; its children go with it."""
    record = STATE / "embedded.json"
    running = read(record)
    if alive(running):
        pid = int(running["pid"])
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + START_TIMEOUT
        while alive(running):
            if time.monotonic() > until:
                os.killpg(pid, signal.SIGKILL)
            time.sleep(0.02)  # between two looks
        say(f"The router (process {pid}) and its engines are gone")
    if "sockets" in running:
        shutil.rmtree(running["sockets"], ignore_errors=True)
    record.unlink(missing_ok=True)


def alive(running: dict[str, str]) -> bool:
    """Whether the recorded process still runs; another with its number does not count."""
    return bool(running) and born(int(running["pid"])) == running["born"] != ""


def born(pid: int) -> str:
    """When a process started, in the kernel's ticks; nothing for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def read(record: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    return found


def free_ports(*wanted: int) -> list[int]:
    """A free loopback port for each: the wanted one where it can be had."""
    taken = []
    for port in wanted:
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        taken.append(listener)
    ports = [listener.getsockname()[1] for listener in taken]
    for listener in taken:
        listener.close()
    return ports


# Both


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=3) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def curl_hints(base_url: str) -> list[str]:
    messages = '[{"role": "user", "content": "A locomotive is"}]'
    body = f'{{"model": "gemma-facts", "stream": true, "max_tokens": 50, "messages": {messages}}}'
    headers = "-H 'Content-Type: application/json' -H 'X-LLM-Router-Status: content'"
    return [
        f"  curl {base_url}/health",
        f"  curl -N {base_url}/v1/chat/completions {headers} -d '{body}'",
    ]


def short(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def down() -> None:
    """Everything that the demo put up; what it downloaded stays, and is named."""
    stop_embedded()
    if (STATE / "inventory.yml").exists():
        gone = subprocess.run([*HOSTS, "down", NAME], check=False)
        if gone.returncode:
            raise DemoError(
                f"Host {NAME} is not gone; the lines above say why. Then: make demo-down"
            )
    shutil.rmtree(STATE, ignore_errors=True)
    say("The demo is gone. Downloads stay, so that the next one is quick; to drop them too:")
    print(f"  make clean && rm -rf {CACHE}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
