"""Everything behind the REST interface: gateway, queue, store and solver workers."""
