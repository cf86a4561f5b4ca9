"""The device: a small core beside one SIP server, and its faces."""
