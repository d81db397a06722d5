"""Model files and modules to graphs; each reader is imported where it is used, so that none costs what it does not need."""
