"""Runs: trained, stored, found again by their config, read as tables.

engine.py     a whole run on one machine
simulation.py all its clients in one process; clients.py: one client's part of a round
arithmetic.py revisions of what turns pictures and settings into numbers
store.py      one run's folder
run.py        `Run`, `load_or_run`
parallel.py   many runs at once
plugins.py    what a run takes from plug-ins
workspace.py  where runs, records, cache and data lie
predict.py    a run's predictions on pictures
"""
