"""Everything Ray: actors around the plain parts below, and the online job that wires them."""
