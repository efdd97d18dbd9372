"""The whole life of a mesh on a real cluster, with the command line: `make e2e`."""
