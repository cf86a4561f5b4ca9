"""The licensing rules: no I/O, no clock, no framework, no await.

Every function here takes the time as an argument and returns values; the floors above
read clocks, write disks and talk to the network.
"""
