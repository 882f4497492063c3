"""Many hosts: shares of a run wait in a queue, and the worker of the host that has the device measures them."""
