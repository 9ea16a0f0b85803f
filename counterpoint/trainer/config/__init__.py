"""The run config: its keys, the components that it names, and how it is read from YAML."""
