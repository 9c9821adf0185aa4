"""What decides a run's numbers.

run_config.py  `RunConfig`, presets, configs from text, TOML and JSON
parameters.py  the chosen method's own parameters
values.py      types and ranges
identity.py    what makes two runs the same run
"""
