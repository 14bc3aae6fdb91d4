"""Options of the commands, their checks, and the folders of yaml."""
