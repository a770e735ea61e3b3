"""Tests a built collection archive: everything that a user needs is in it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent

# What a collection may have at its top; every tracked file in these folders must be in.
SHIPPED_FOLDERS = {"docs", "examples", "meta", "playbooks", "plugins", "roles", "changelogs"}
SHIPPED_FILES = {
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CHANGELOG.rst",
    "requirements.txt",
    "install.sh",
}
# What install.sh makes its environment of.
SHIPPED_REQUIREMENTS = {"requirements/ansible.in", "requirements/ansible.lock"}
MADE_BY_GALAXY = {"MANIFEST.json", "FILES.json"}
NEEDED = {
    "README.md",
    "LICENSE",
    "meta/runtime.yml",
    "playbooks/site.yml",
    "plugins/modules/model_config.py",
    "plugins/modules/model_info.py",
    "playbooks/upgrade.yml",
    "playbooks/rollback.yml",
    "playbooks/uninstall.yml",
    "playbooks/files/stop_engines.sh",
    "plugins/filter/fleet_routes.py",
    "plugins/doc_fragments/router.py",
    "docs/README.md",
    "docs/reference/models-yml.md",
    "plugins/modules/model_switch.py",
    "plugins/modules/model_download.py",
    "plugins/modules/prometheus_config.py",
    "plugins/action/model_download.py",
    "install.sh",
    "plugins/module_utils/engine_files.py",
    "plugins/module_utils/file_edits.py",
    "plugins/module_utils/prometheus_yaml.py",
    "plugins/module_utils/router_admin.py",
    "plugins/module_utils/safe_path.py",
    "plugins/module_utils/yaml_bounds.py",
    "plugins/module_utils/yaml_edit.py",
    "plugins/module_utils/yaml_events.py",
    "roles/llm_router/meta/argument_specs.yml",
    "roles/llm_router/files/requirements.lock",
    "roles/llm_router/files/llm_router/__init__.py",
    "roles/llamacpp/meta/argument_specs.yml",
    "roles/sglang/meta/argument_specs.yml",
    "roles/vllm/meta/argument_specs.yml",
    "roles/gateway/meta/argument_specs.yml",
    "roles/monitoring/meta/argument_specs.yml",
    "roles/monitoring/files/dashboard.json",
    "roles/open_webui/meta/argument_specs.yml",
    "roles/open_webui/files/requirements.lock",
    "roles/models/meta/argument_specs.yml",
    "roles/models/files/requirements.lock",
    *SHIPPED_REQUIREMENTS,
}
NEVER_PARTS = {"__pycache__", ".venv", ".cache", ".git", "fragments", "tests", "molecule", "demo"}


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    names = {name for name in listed.stdout.decode().split("\0") if name}
    # The link by which a checkout is its own collection would point at nothing in an archive.
    return {name for name in names if not (ROOT / name).is_symlink() or name in NEEDED}


def problems(names: set[str], wanted: set[str]) -> list[str]:
    found = [f"missing: {name}" for name in sorted(NEEDED - names)]
    for name in sorted(names):
        path = PurePosixPath(name)
        files = SHIPPED_FILES | SHIPPED_REQUIREMENTS | MADE_BY_GALAXY
        if path.parts[0] not in SHIPPED_FOLDERS and name not in files:
            found.append(f"does not belong in the archive: {name} (galaxy.yml, build_ignore)")
        elif NEVER_PARTS & set(path.parts) or path.suffix in {".pyc", ".gguf"}:
            found.append(f"does not belong in the archive: {name} (galaxy.yml, build_ignore)")
    for name in sorted(wanted - names):
        path = PurePosixPath(name)
        if path.parts[0] in SHIPPED_FOLDERS - {"changelogs"}:
            found.append(f"tracked but missing from the archive: {name}")
    return found


def main(archive: str) -> int:
    with tarfile.open(archive) as tar:
        names = {member.name for member in tar.getmembers() if member.isfile() or member.issym()}
    found = problems(names, tracked())
    for problem in found:
        print(f"{archive}: {problem}")
    size = Path(archive).stat().st_size
    print(f"{archive}: {len(names)} files, {size / 1024:.0f} KiB, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
