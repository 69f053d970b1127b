"""RAID that a controller makes, through the tool of its vendor: look, decide, act.

`plan.py` decides, pure. `tool.py` is what a vendor's tool must be able to do; `storcli.py` is the
one that we have, for controllers of Broadcom/LSI and their brothers by Dell, Lenovo and others.
"""
