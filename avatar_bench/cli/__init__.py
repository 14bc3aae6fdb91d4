"""Command line interface: parsing, help, Hydra tasks and sweeps."""
