"""The plugin system: the list of hooks, the plugins that are installed, and what a run calls at each hook."""
