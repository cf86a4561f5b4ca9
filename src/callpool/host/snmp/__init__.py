"""SNMP for both programs: values, settings, one engine, notifications; pysnmp stays in here."""
