"""What the programs need of the machine they run on: clocks, files, processes, SIPp."""
