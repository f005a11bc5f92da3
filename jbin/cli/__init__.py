"""The commands, one file each; `jbin.__main__` calls them by name."""
