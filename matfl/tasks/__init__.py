"""The tasks, the domains that label them, and how answers are measured.

task.py      what a task, a domain and a (domain, task) pair are; the registries TASKS and DOMAINS
kinds.py     class maps, binary maps, edges, directions, quantities: tasks of one's own begin here
standard.py  the six tasks of the paper; domains.py: its two domains and their embedded stand-ins
losses.py    what training minimises; colours.py: how maps become pictures
meters.py    streaming meters, delta_m
edges/       ODS-F without MATLAB
"""
