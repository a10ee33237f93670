"""clujax: adapt trained networks through the geometry of their loss."""

__version__ = "0.1.0"
