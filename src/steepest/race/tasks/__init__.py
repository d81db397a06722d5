"""The tasks that come with the package, one file each: every file has ``task()``."""
