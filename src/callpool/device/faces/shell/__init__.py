"""The device's shell: a command line over SSH, files over SFTP, in a process of its own."""
