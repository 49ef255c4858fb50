"""Masking games, whatever is masked: the tokens of a text, or the places that a playing agent looks at.

A case is what is examined, a text or a moment of play; its items are what can be masked, one by one. What is asked of
whoever masks them is in `probe.py`; all else here is built on that alone.
"""
