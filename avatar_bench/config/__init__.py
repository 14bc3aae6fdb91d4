"""Options of the commands, their validation and the search for yaml files."""
