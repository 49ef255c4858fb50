"""The methods by name; one file a method (or family)."""
