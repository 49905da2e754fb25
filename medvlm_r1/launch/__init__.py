"""What a command, a notebook and an experiment call: the only place that chooses concrete classes."""
