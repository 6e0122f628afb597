"""What a build did and what works here: status, explain, doctor."""
