"""Which hosts of a fleet know which names of models."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_routes
short_description: Which hosts of a fleet know which names of models
version_added: 0.1.0
author: Roundhouse contributors
description:
  - Turns the hosts of a fleet, with the models of each, into one entry for every set of names
    that the same hosts know.
  - The role P(roundhouse.llm.gateway#role) makes a backend of each.
positional: _input
options:
  _input:
    description:
      - The hosts, each a mapping of C(name) and C(models), the latter as in C(models.yml).
    type: list
    elements: dict
    required: true
notes:
  - It fails where a name means one model on one host and another model on another.
"""

EXAMPLES = r"""
- name: Show who has which model
  ansible.builtin.debug:
    msg: "{{ [{'name': 'gpu1', 'models': {'gemma': {'backend': 'llamacpp', 'aliases': ['gpt-4']}}}]
             | roundhouse.llm.fleet_routes }}"
"""

RETURN = r"""
_value:
  description:
    - >-
      For each model, and for its variants and aliases that fewer hosts know, a mapping of C(id)
      (letters, digits and C(_.-)), C(model), C(names), C(hosts) (names of hosts, the one that
      shall load it first in front) and C(listed) (its part of C(/v1/models)).
  type: list
  elements: dict
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def fleet_routes(hosts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One route for each (model, hosts that know a name of it); see DOCUMENTATION."""
    meanings: dict[str, dict[str, str]] = {}
    for host in hosts:
        for name, model in names_of(host["models"]):
            meanings.setdefault(name, {})[host["name"]] = model
    routes: dict[tuple[str, frozenset[str]], list[str]] = {}
    for name, meaning in sorted(meanings.items()):
        if len(set(meaning.values())) > 1:
            told = ", ".join(f"{model} on {host}" for host, model in sorted(meaning.items()))
            raise AnsibleFilterError(
                f"The name '{name}' must mean one model in the whole fleet, but it is {told}."
            )
        model = next(iter(meaning.values()))
        routes.setdefault((model, frozenset(meaning)), []).append(name)
    entries: dict[str, Mapping[str, Any]] = {}
    for host in hosts:
        for model, entry in host["models"].items():
            entries.setdefault(model, entry or {})
    # models of different device groups do not drive each other out
    first: Counter[tuple[str, str]] = Counter()
    made = []
    # who has the least choice chooses first
    for (model, known), names in sorted(
        routes.items(), key=lambda route: (len(route[0][1]), route[0][0], sorted(route[0][1]))
    ):
        group = entries[model].get("group", "default")
        order = sorted(known, key=lambda host: (first[host, group], digest(model, host)))
        first[order[0], group] += 1
        made.append(
            {
                "id": identify(model, known),
                "model": model,
                "names": names,
                "hosts": order,
                "listed": list(listed(model, names, entries[model])),
            }
        )
    return sorted(made, key=lambda route: (route["model"], route["id"]))


def names_of(models: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every (name, model) that a client of one host may use."""
    for model, entry in models.items():
        yield model, model
        for alias in (entry or {}).get("aliases") or ():
            yield alias, model
        for variant in (entry or {}).get("variants") or ():
            yield variant, model


def listed(model: str, names: Sequence[str], entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of ``/v1/models``: as a router's own, without what only it knows."""
    aliases = [name for name in entry.get("aliases") or () if name in names]
    for name in names:
        if name in (entry.get("aliases") or ()):
            continue
        said = {"id": name, "object": "model", "created": 0, "owned_by": entry.get("backend", "")}
        if entry.get("context_length") is not None:
            said["context_length"] = entry["context_length"]
        if entry.get("description"):
            said["description"] = entry["description"]
            said["info"] = {"meta": {"description": entry["description"]}}
        if entry.get("tags"):
            said["tags"] = entry["tags"]
        if name != model:
            said["parent"] = model
        elif entry.get("display_name"):
            said["name"] = entry["display_name"]
        if name == model and aliases:
            said["aliases"] = aliases
        yield said


def identify(model: str, hosts: frozenset[str]) -> str:
    """A name that HAProxy takes, the same as long as the route is the same."""
    return f"{re.sub('[^A-Za-z0-9.-]', '_', model)}_{digest(model, *sorted(hosts))[:6]}"


def digest(*words: str) -> str:
    """Hexadecimal."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


class FilterModule:
    """Filters of the role gateway."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"fleet_routes": fleet_routes}
