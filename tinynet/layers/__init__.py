"""Layers: a file for each family, with its formula, its derivation and its class."""
