"""`make chaos`: disturb every command that writes, attack what reads, and see what is left.

`__main__.py` runs the scenes and prints one JSON object. A scene is a module with a function that returns
`Findings` (`findings.py`): `kill_commands.py` over every command that writes, `kill_collect_actors.py` over a
collection on Ray, then drivers side by side, signals, disks, sweeps, and attempts that other tests' modules
count. `fixture.py` has the model, corpus and commands that they share, `killable.py` runs a command that can
be killed at any of its changes.
"""
