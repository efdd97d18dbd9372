"""What a Prefect server needs beside the flows themselves."""
