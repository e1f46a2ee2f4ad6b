"""The work of each command, in the file of the command's name."""
