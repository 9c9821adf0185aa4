"""What decides a run's numbers: `RunConfig` and the presets (run_config.py)."""
