"""``llm-router qualify``: whether a host does what it should, and how fast.

`plan`, `measure`, `report`, `compare` and `page` are pure. `host` reads what the machine says of
itself, `client` talks to the router's admin socket, and `run` makes the checks with both.
"""
