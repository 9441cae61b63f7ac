"""Studies: scripts behind the tables that the documents quote."""
