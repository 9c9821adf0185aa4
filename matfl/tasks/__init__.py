"""The tasks, the domains that label them, and how answers are measured.

task.py     tasks, domains, (domain, task) pairs
meters.py   streaming meters, delta_m
edges/      ODS-F without MATLAB
"""
