"""The probe: meshed clients and servers that send each other requests while a mesh changes."""
