"""What a process tells the machine it runs on: systemd, and who asks by HTTP."""
