"""The faces: the device's pages, in a process of their own.

They read the core through its control socket and hold nothing themselves, so no flood of
handshakes and no fault here can delay a timer or a policy.
"""
