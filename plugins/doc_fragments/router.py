# Copyright (c) 2026 Roundhouse contributors
# MIT License (see LICENSE)
# SPDX-License-Identifier: MIT
"""What the modules that ask the running router have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """``extends_documentation_fragment: [roundhouse.llm.router]``."""

    DOCUMENTATION = r"""
requirements:
  - the router, as the role P(roundhouse.llm.llm_router#role) installs it, running on the host
options:
  socket:
    description:
      - The router's admin socket. Whoever can open it may administer; root can.
    type: path
    default: /run/llm-router/admin.sock
"""
