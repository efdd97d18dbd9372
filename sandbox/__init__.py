"""An embedded Kubernetes for the demo and the tests: real API, simulated nodes."""
