"""The losses, one file each; `checks` is what their doors share.

A loss is a function of a prediction and a target that returns its value and its gradient, computed together:
whatever the value needed, the gradient needs too.
"""
