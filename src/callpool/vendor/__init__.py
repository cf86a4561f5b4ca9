"""Who sells the licenses: signs order files and local license keys."""
