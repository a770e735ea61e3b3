"""Real systemd test hosts in systemd-nspawn: what `tests/hosts/hosts.py` is made of.

`names` is pure; `shell` runs commands and says so; `base`, `network` and `machine` have the
effects; `doctor` says beforehand whether they can have them here. Standard library only,
Python >= 3.11.
"""
