"""Syslog: every alarm and every notice of smart licensing, told to each target once."""
