"""The machine that work runs on: devices, precision, memory, cores, time."""
