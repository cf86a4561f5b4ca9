"""SNMP in and alarms out, in a process of their own: no flood of them delays a contact."""
