"""Words of the command line to a command run by Hydra."""
