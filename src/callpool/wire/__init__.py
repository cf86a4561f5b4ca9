"""Messages between the parts, and their signed envelope."""
