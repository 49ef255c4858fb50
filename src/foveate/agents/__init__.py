"""Agents that play from pixels and show what they attend to. Knows nothing of `foveate.text`."""
