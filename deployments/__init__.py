"""What a Prefect server needs besides the flows: deployments, schedules, automations, roles."""
