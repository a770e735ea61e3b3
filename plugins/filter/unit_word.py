# Copyright: Roundhouse contributors
# MIT License (see LICENSE)
"""A word as systemd's unit files quote it. Pure."""

from __future__ import annotations

DOCUMENTATION = r"""
name: unit_word
short_description: Quote a word for a command line or an environment in a systemd unit
author: Roundhouse contributors
version_added: 0.2.0
description:
  - Quotes a word so that systemd reads it as it is, with spaces, quotes, C($) and C(%).
  - A word that needs none of that stays as it is.
positional: _input
options:
  _input:
    description: The word.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show a command line as it stands in a unit
  ansible.builtin.debug:
    msg: "ExecStart={{ words | map('roundhouse.llm.unit_word') | join(' ') }}"
  vars:
    words: [/usr/bin/engine, --name, two words]
"""

RETURN = r"""
_value:
  description: The word, quoted.
  type: str
"""

import json
import re
from typing import Any


def unit_word(word: object) -> str:
    """The word in double quotes, with systemd's escapes, where it needs them."""
    text = str(word)
    if re.fullmatch(r"[A-Za-z0-9_@+=:,./-]+", text):
        return text
    # JSON's escapes of what is beyond 16 bits are two halves, which systemd drops
    return json.dumps(text, ensure_ascii=False).replace("%", "%%").replace("$", "$$")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Each filter by its name."""
        return {"unit_word": unit_word}
