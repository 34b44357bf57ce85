"""The one exception root of the service; every adapter translates its vendor's errors into these."""


class ServiceError(Exception):
    """Root of everything that the service raises on purpose."""


class StoreUnavailableError(ServiceError):
    """Redis cannot be reached, or refuses to write; nothing that was accepted before is lost."""


class StoreFullError(StoreUnavailableError):
    """Redis has reached its `maxmemory`: it still reads, and refuses to write."""


class StoreDiskError(StoreUnavailableError):
    """Redis cannot write to its disk, which is full or broken: it keeps what it has in memory, and refuses to write."""


class StoreRefusedError(StoreUnavailableError):
    """Redis refuses the user or the password that the settings name: waiting does not help."""


class SolverError(ServiceError):
    """The solver failed in a way that is not an answer (a crash or a state it should never be in)."""
