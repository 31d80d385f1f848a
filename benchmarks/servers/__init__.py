"""The peers' servers, each run in an environment of its own. `session` and `digits` are shared by all, and by the benchmark."""
