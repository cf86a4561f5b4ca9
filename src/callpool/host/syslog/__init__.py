"""Syslog for both programs: messages of RFC 5424, their targets, one sender for each target."""
