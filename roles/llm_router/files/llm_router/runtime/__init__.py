"""What keeps the running router in step with the host."""
