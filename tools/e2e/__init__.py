"""The whole life of a mesh on a real cluster, by the command line: `make e2e`."""
