"""What crosses the wire between trainers, the gateway and solver workers."""
