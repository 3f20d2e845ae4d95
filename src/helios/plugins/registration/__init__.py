"""Register plug-ins: conflicts, order, requirements, and the table."""
