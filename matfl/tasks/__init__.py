"""The tasks, the domains that label them, and how answers are measured.

task.py      tasks, domains and (domain, task) pairs by name; definitions.py: what they are, TASKS and DOMAINS
kinds.py     class maps, binary maps, edges, directions, quantities: tasks of one's own begin here
standard.py  the six tasks of the paper; domains.py: its two domains and their embedded stand-ins
losses.py    what training minimises; colours.py: how maps become pictures
meters.py    streaming meters, delta_m
joint.py     clients with several tasks: one backbone, a head for each
edges/       ODS-F without MATLAB
"""
