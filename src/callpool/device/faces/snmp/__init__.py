"""The SNMP agent: what a network operations centre reads and is told, over pysnmp."""
