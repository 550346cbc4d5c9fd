"""The losses, one file each, and what they share: elementwise.py and rowwise.py drive them, checks.py checks arguments.

A loss is a function of a prediction and a target that returns its value and its gradient, computed together:
whatever the value needed, the gradient needs too.
"""
