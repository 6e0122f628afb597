"""What makes a run and what consumes one."""
