"""The machine under it: what a number is on a device, memory, and the process's own generators."""
