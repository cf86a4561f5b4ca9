"""callpool: licenses call capacity for a fleet of SIP devices."""

__version__ = "0.1.0"
