"""tinynet: neural networks to read and to use."""

__version__ = "0.1.0"
