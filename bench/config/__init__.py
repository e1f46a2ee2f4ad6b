"""The options of each command: one validated model per command, for the command line and YAML."""
