"""The gate: Kamailio's call handling, and the driver that tells it what may be admitted.

Every INVITE and REGISTER is judged inside Kamailio by `callpool.cfg`; nothing here stands on
a call's path.
"""
