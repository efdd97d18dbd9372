"""The workloads' own requests before and after a batch of restarts, counted by their proxies."""
