"""Where a Case comes from and where a result goes: one module a format."""
